"""Files whose experts do not fit together: each is refused at load, by name, in a child process."""

from __future__ import annotations

import numpy as np
import pytest

from tests.broken_files import FileOpener, check_refused
from tests.gguf_factory import make_model
from tests.models.expert_files import mixtral

U32, F32 = np.uint32, np.float32


def key(name, value, *words):
    """A metadata value and the words that the refusal must contain."""
    return {f"llama.{name}": value}, {}, (name, *words)


def tensor(name, shape, *words):
    """A tensor of another shape, or None to leave it out."""
    values = None if shape is None else np.ones(shape, F32)
    return {}, {f"blk.0.{name}": values}, (name, *words)


CASES = {
    "used-0": key("expert_used_count", U32(0)),
    "used-more-than-there-are": key("expert_used_count", U32(5), "at most 4"),
    "used-negative": key("expert_used_count", np.int32(-1), "-1"),
    "used-text": key("expert_used_count", "two"),
    "count-negative": key("expert_count", np.int32(-4), "-4"),
    "count-huge": key("expert_count", U32(2**32 - 1), "4294967295"),
    "count-other": ({"llama.expert_count": U32(5)}, {}, ("ffn_gate_inp", "shape")),
    "count-0": ({"llama.expert_count": U32(0)}, {}, ("ffn_gate", "missing")),
    "gating-unknown": key("expert_gating_func", U32(9), "at most 3"),
    "norm-number": key("expert_weights_norm", U32(1), "bool"),
    "scale-negative": key("expert_weights_scale", F32(-1)),
    "scale-nan": key("expert_weights_scale", F32(np.nan), "nan"),
    "groups-no-divisor": key("expert_group_count", U32(3), "divisor"),
    "groups-more-than-experts": key("expert_group_count", U32(8), "at most 4"),
    "groups-used-too-many": (
        {"llama.expert_group_count": U32(2), "llama.expert_group_used_count": U32(3)},
        {},
        ("expert_group_used_count", "at most 2"),
    ),
    "groups-used-too-few": (
        {"llama.expert_group_count": U32(4), "llama.expert_group_used_count": U32(1)},
        {},
        ("expert_group_used_count", "leaves 1 experts"),
    ),
    "expert-length-0": key("expert_feed_forward_length", U32(0)),
    "expert-length-other": ({"llama.expert_feed_forward_length": U32(32)}, {}, ("ffn_gate_exps", "shape")),
    "router-missing": tensor("ffn_gate_inp.weight", None, "missing"),
    "down-missing": tensor("ffn_down_exps.weight", None, "missing"),
    "up-of-fewer-experts": tensor("ffn_up_exps.weight", (3, 96, 64), "shape"),
    "up-of-two-dimensions": tensor("ffn_up_exps.weight", (96, 64), "shape"),
    "down-swapped": tensor("ffn_down_exps.weight", (4, 96, 64), "shape"),
    "router-swapped": tensor("ffn_gate_inp.weight", (64, 4), "shape"),
    "bias-of-other-experts": tensor("ffn_up_exps.bias", (3, 96), "shape"),
}


@pytest.fixture(scope="module")
def opener():
    with FileOpener("tests.models.running:load_and_close", memory=None) as opened:
        yield opened


def write(path, keys, tensors):
    arguments = mixtral()
    arguments["metadata_overrides"] |= keys
    arguments["drop"] = [*arguments["drop"], *(name for name, values in tensors.items() if values is None)]
    arguments["tensor_overrides"] |= {name: values for name, values in tensors.items() if values is not None}
    return make_model(path, **arguments)


@pytest.mark.parametrize("case", CASES)
def test_refused(opener, tmp_path, case):
    keys, tensors, words = CASES[case]
    check_refused(opener.open(write(tmp_path / "broken.gguf", keys, tensors)), *words)


def test_the_unbroken_model_opens(opener, tmp_path):
    assert opener.open(write(tmp_path / "fine.gguf", {}, {})).kind == "opened"
