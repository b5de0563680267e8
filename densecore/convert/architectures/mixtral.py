"""Mixtral: Llama's attention, and experts in place of the feed-forward part; GGUF files call it ``llama``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.architectures.llama import Llama
from densecore.convert.decoder import NORMS, attention
from densecore.convert.rules import row

__all__ = ["Mixtral"]


class Mixtral(Llama):
    """See the module's text."""

    classes = ("MixtralForCausalLM", "MixtralModel")
    model_types = ("mixtral",)
    block = (
        *NORMS,
        *attention(pairs=True),
        row("blk.{}.ffn_gate_inp", "layers.{}.block_sparse_moe.gate", "experts dim"),
        row("blk.{}.ffn_gate_exps", "layers.{}.block_sparse_moe.experts.{expert}.w1", "hidden dim"),
        row("blk.{}.ffn_down_exps", "layers.{}.block_sparse_moe.experts.{expert}.w2", "dim hidden"),
        row("blk.{}.ffn_up_exps", "layers.{}.block_sparse_moe.experts.{expert}.w3", "hidden dim"),
    )

    def read_sizes(self) -> dict[str, int]:
        return super().read_sizes() | {"experts": self.config.integer("num_local_experts", maximum=4096)}

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        yield "expert_count", self.sizes["experts"]
        yield "expert_used_count", self.config.integer("num_experts_per_tok", maximum=self.sizes["experts"])
