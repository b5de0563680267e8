"""Gemma 2: Gemma with norms after attention and feed-forward too, a sliding window, and soft caps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from densecore.convert.architectures.gemma import Gemma
from densecore.convert.changes import one_more
from densecore.convert.decoder import GATED_MLP, attention
from densecore.convert.rules import Row, row
from densecore.convert.windows import left_out_elsewhere, local_layers, window_metadata

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
        yield "attn_logit_softcapping", self._cap("attn_logit_softcapping", 50.0)
        yield "final_logit_softcapping", self._cap("final_logit_softcapping", 30.0)
        window = self.config.integer("sliding_window", default=4096)
        usual = [layer % 2 == 0 for layer in range(self.n_layers)]
        yield from window_metadata(self, window, local_layers(self, usual), usual)

    def _cap(self, name: str, default: float) -> float:
        """A soft cap; null is none, which is written as 0."""
        if self.config.is_null(name):
            left_out_elsewhere(f"{name} = null")
            return 0.0
        return self.config.number(name, default=default, minimum=1e-6)
