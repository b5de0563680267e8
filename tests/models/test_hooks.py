"""Hooks read and replace activations, and cost nothing where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.exceptions import InvalidConfigError
from densecore.models.hooks import LAYER_HOOKS, hook_names
from tests.gguf_factory import ARCHITECTURES, make_model
from tests.models.running import nmse, open_model, run

TOKENS = np.random.default_rng(5).integers(3, 60, 21)
HEADS, KV_HEADS, HEAD_DIM, DIM = 4, 2, 16, 64
SHAPES = {
    "q": (21, HEADS, HEAD_DIM),
    "k": (21, KV_HEADS, HEAD_DIM),
    "v": (21, KV_HEADS, HEAD_DIM),
    "z": (21, HEADS, HEAD_DIM),
    "pattern": (HEADS, 21, 21),
}


@pytest.fixture(params=ARCHITECTURES)
def model(request, tmp_path):
    with open_model(make_model(tmp_path / "model.gguf", request.param)) as opened:
        yield opened


def recorded(model, *patterns):
    seen = {}
    logits = run(model, TOKENS, hooks={pattern: lambda value, name: seen.update({name: value}) for pattern in patterns})
    return seen, logits


def test_every_point_is_reached_once_in_order(model):
    seen, logits = recorded(model, "*")
    seen = {name: value for name, value in seen.items() if not name.endswith(".input")}
    assert sorted(seen) == sorted(hook_names(2))
    assert next(iter(seen)) == "embed"
    assert list(seen)[-1] == "logits"
    assert [name.split(".")[2] for name in list(seen)[1:11]] == list(LAYER_HOOKS)
    for name, value in seen.items():
        point = name.rsplit(".", 1)[-1]
        assert value.dtype == np.float32
        assert value.shape == SHAPES.get(point, logits.shape if name == "logits" else (21, DIM)), name
    assert np.array_equal(seen["logits"], logits)


def test_residual_stream_adds_up(model):
    seen, _ = recorded(model, "embed", "blk.*.resid_*", "blk.*.attn_out", "blk.*.mlp_out")
    assert np.array_equal(seen["embed"], seen["blk.0.resid_pre"])
    assert np.array_equal(seen["blk.0.resid_pre"] + seen["blk.0.attn_out"], seen["blk.0.resid_mid"])
    assert np.array_equal(seen["blk.0.resid_mid"] + seen["blk.0.mlp_out"], seen["blk.0.resid_post"])
    assert np.array_equal(seen["blk.0.resid_post"], seen["blk.1.resid_pre"])


def test_reading_changes_no_bit(model):
    without = run(model, TOKENS)
    points = [f"blk.*.{point}" for point in LAYER_HOOKS if point != "pattern"]
    _, logits = recorded(model, "embed", *points)
    assert np.array_equal(logits, without)


def test_pattern_is_causal_and_sums_to_one(model):
    seen, logits = recorded(model, "blk.*.pattern")
    pattern = seen["blk.1.pattern"]
    assert np.allclose(pattern.sum(-1), 1, atol=1e-6)
    assert not pattern[:, np.triu_indices(21, 1)[0], np.triu_indices(21, 1)[1]].any()
    assert nmse(logits, run(model, TOKENS)) < 1e-10


@pytest.mark.parametrize("in_place", [True, False], ids=["in-place", "returned"])
def test_ablating_a_head_by_z_and_by_pattern_agree(model, in_place):
    def ablate_z(value, name):
        changed = value if in_place else value.copy()
        changed[:, 2] = 0
        return None if in_place else changed

    def ablate_pattern(value):
        value[2] = 0

    by_z = run(model, TOKENS, hooks={"blk.1.z": ablate_z})
    by_pattern = run(model, TOKENS, hooks={"blk.1.pattern": ablate_pattern})
    assert nmse(by_z, by_pattern) < 1e-10
    assert nmse(by_z, run(model, TOKENS)) > 1e-6


def test_replaced_logits_are_returned(model):
    assert not run(model, TOKENS, hooks={"logits": np.zeros_like}).any()


def test_replacing_the_residual_stream_erases_what_came_before(model):
    constant = np.random.default_rng(0).standard_normal((21, DIM)).astype(np.float32)
    hooks = {"blk.1.resid_pre": lambda value: constant}
    other = (TOKENS + 1) % 60
    assert np.array_equal(run(model, TOKENS, hooks=hooks), run(model, other, hooks=hooks))


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ({"blk.0.residual": print}, "no activation is called 'blk.0.residual'"),
        ({"blk.2.q": print}, "N below 2"),
        ({"embed": 3}, "not callable"),
        ([print], "must map names"),
        ({"blk.0.q": lambda value: value[:-1]}, r"returned shape \(20, 4, 16\); expected \(21, 4, 16\)"),
    ],
    ids=["name", "layer", "not-callable", "not-a-mapping", "shape"],
)
def test_mistakes_are_named(model, hooks, message):
    with pytest.raises(InvalidConfigError, match=message):
        run(model, TOKENS, hooks=hooks)


def test_every_matrix_tells_what_it_gets_to_multiply(model):
    """By the names of the file, also where a matrix of the file is several to the model."""
    seen, _ = recorded(model, "*.input")
    assert set(seen) == {f"{name}.input" for name in model.linears if name != "token_embd"}
    for name, value in seen.items():
        linear = model.linears[name.removesuffix(".input")]
        assert value.shape == (len(value), linear.n_in)
