"""Gemma 3: Gemma 2 without soft caps, with norms on the heads of q and k, and five local layers for each global one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.architectures.gemma import Gemma
from densecore.convert.architectures.gemma2 import FOUR_NORMS
from densecore.convert.changes import one_more
from densecore.convert.decoder import GATED_MLP, attention
from densecore.convert.rules import row

__all__ = ["Gemma3"]

PERIOD = 6  # each sixth layer sees the whole context; no key of GGUF files says so


class Gemma3(Gemma):
    """See the module's text. Of models that see, the part for text is converted."""

    architecture = "gemma3"
    classes = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")
    model_types = ("gemma3_text", "gemma3")
    prefixes = ("language_model.", "model.", "language_model.")
    parts_left_out = ("vision_tower.", "multi_modal_projector.")
    n_layers_of_27b = 62
    block = (
        *FOUR_NORMS,
        row("blk.{}.attn_q_norm", "layers.{}.self_attn.q_norm", "head", one_more),
        row("blk.{}.attn_k_norm", "layers.{}.self_attn.k_norm", "head", one_more),
        *attention(),
        *GATED_MLP,
    )

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        config = self.config
        if config.has("final_logit_softcapping"):
            yield "final_logit_softcapping", config.number("final_logit_softcapping")
        if config.has("attn_logit_softcapping"):
            raise config.error("attn_logit_softcapping", "is set", "nothing: GGUF files cannot express it")
        self._check_pattern()
        yield "attention.sliding_window", config.integer("sliding_window")

    def _check_pattern(self) -> None:
        kinds = self.config.strings("layer_types", default=None)
        usual = ["sliding_attention"] * self.n_layers
        usual[PERIOD - 1 :: PERIOD] = ["full_attention"] * (self.n_layers // PERIOD)
        if kinds is not None and kinds != usual:
            raise self.config.error("layer_types", f"is {kinds}", f"full_attention for each sixth layer: {usual}")
        if self.config.integer("sliding_window_pattern", "_sliding_window_pattern", default=PERIOD) != PERIOD:
            raise self.config.error("sliding_window_pattern", "is another", str(PERIOD))
