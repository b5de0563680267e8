"""Gemma 2: Gemma with norms after attention and feed-forward too, a sliding window, and soft caps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from densecore.convert.architectures.gemma import Gemma
from densecore.convert.changes import one_more
from densecore.convert.decoder import GATED_MLP, attention
from densecore.convert.rules import Row, row

__all__ = ["FOUR_NORMS", "Gemma2"]

FOUR_NORMS: tuple[Row, ...] = (
    row("blk.{}.attn_norm", "layers.{}.input_layernorm", "dim", one_more),
    row("blk.{}.post_attention_norm", "layers.{}.post_attention_layernorm", "dim", one_more),
    row("blk.{}.ffn_norm", "layers.{}.pre_feedforward_layernorm", "dim", one_more),
    row("blk.{}.post_ffw_norm", "layers.{}.post_feedforward_layernorm", "dim", one_more),
)


class Gemma2(Gemma):
    """See the module's text."""

    architecture = "gemma2"
    classes: ClassVar[tuple[str, ...]] = ("Gemma2ForCausalLM", "Gemma2Model")
    model_types: ClassVar[tuple[str, ...]] = ("gemma2",)
    n_layers_of_27b = 46
    block: ClassVar[tuple[Row, ...]] = (*FOUR_NORMS, *attention(), *GATED_MLP)

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        yield "attn_logit_softcapping", self.config.number("attn_logit_softcapping", default=50.0)
        yield "final_logit_softcapping", self.config.number("final_logit_softcapping", default=30.0)
        yield "attention.sliding_window", self.config.integer("sliding_window", default=4096)
