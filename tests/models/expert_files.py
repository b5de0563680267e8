"""Tiny random models with experts: what `gguf_factory.make_model` takes to make Mixtral of its Llama."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["mixtral"]

DENSE = ("ffn_gate", "ffn_up", "ffn_down")


def mixtral(
    *, n_experts: int = 4, n_used: int = 2, dim: int = 64, hidden_dim: int = 96, n_layers: int = 2, seed: int = 0
) -> dict[str, Any]:
    """Arguments of `make_model`: sizes, keys, tensors of experts, and the names of those whose place they take."""
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        return rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)

    tensors: dict[str, np.ndarray] = {}
    for layer in range(n_layers):
        tensors |= {
            f"blk.{layer}.ffn_gate_inp.weight": matrix(n_experts, dim),
            f"blk.{layer}.ffn_gate_exps.weight": matrix(n_experts, hidden_dim, dim),
            f"blk.{layer}.ffn_up_exps.weight": matrix(n_experts, hidden_dim, dim),
            f"blk.{layer}.ffn_down_exps.weight": matrix(n_experts, dim, hidden_dim),
        }
    return {
        "dim": dim,
        "hidden_dim": hidden_dim,
        "n_layers": n_layers,
        "metadata_overrides": {
            "llama.expert_count": np.uint32(n_experts),
            "llama.expert_used_count": np.uint32(n_used),
        },
        "tensor_overrides": tensors,
        "drop": [f"blk.{layer}.{name}.weight" for layer in range(n_layers) for name in DENSE],
        "tensor_types": {"*.ffn_gate_inp.weight": "F32"},
    }
