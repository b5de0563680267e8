"""What holds for every model, dense or with experts: tests of a single kind call these."""

from __future__ import annotations

import numpy as np

from densecore.models import Model
from densecore.models.hooks import LAYER_HOOKS, hook_names
from tests.convert.tiny import COLUMNS
from tests.models.checkpoints import TOKENS
from tests.models.running import nmse, run

__all__ = ["check_hooks", "check_logits"]


def check_logits(model: Model, recorded: np.ndarray, num_threads: int = 2) -> None:
    """At once, token by token, recorded, and operation by operation: as transformers, and the same bits."""
    logits = run(model, TOKENS)
    assert np.abs(logits[:, COLUMNS] - recorded).max() < 1e-3
    assert np.array_equal(run(model, TOKENS, chunks=[1] * 48, num_threads=num_threads), logits)
    assert np.array_equal(run(model, TOKENS, chunks=[31, 17], hooks={"blk.*.resid_mid": lambda value: None}), logits)


def check_hooks(model: Model) -> dict[str, np.ndarray]:
    """Every point is reached in order, and the residual stream adds up; returns what was seen at each."""
    seen: dict[str, np.ndarray] = {}
    logits = run(model, TOKENS, hooks={"*": lambda value, name: seen.update({name: value})})
    seen = {name: value for name, value in seen.items() if not name.endswith(".input")}
    assert sorted(seen) == sorted(hook_names(model.config.n_layers))
    assert [name.split(".")[2] for name in list(seen)[1:11]] == list(LAYER_HOOKS)
    assert nmse(logits, run(model, TOKENS)) < 1e-10
    for layer in range(model.config.n_layers):
        at = {point: seen[f"blk.{layer}.{point}"] for point in LAYER_HOOKS}
        assert np.array_equal(at["resid_pre"] + at["attn_out"], at["resid_mid"])
        assert np.array_equal(at["resid_mid"] + at["mlp_out"], at["resid_post"])
        assert np.allclose(at["pattern"].sum(-1), 1, atol=1e-5)
    return seen
