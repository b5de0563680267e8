"""Qwen3 and Qwen3-Embedding: Qwen2 with norms on the heads of q and k."""

from __future__ import annotations

from densecore.convert.architectures.qwen2 import Qwen2
from densecore.convert.decoder import GATED_MLP, NORMS, attention
from densecore.convert.rules import Row, row

__all__ = ["HEAD_NORMS", "Qwen3"]

HEAD_NORMS: tuple[Row, ...] = (
    row("blk.{}.attn_q_norm", "layers.{}.self_attn.q_norm", "head"),
    row("blk.{}.attn_k_norm", "layers.{}.self_attn.k_norm", "head"),
)


class Qwen3(Qwen2):
    """See the module's text."""

    architecture = "qwen3"
    classes = ("Qwen3ForCausalLM", "Qwen3Model")
    model_types = ("qwen3",)
    block = (*NORMS, *HEAD_NORMS, *attention(), *GATED_MLP)
