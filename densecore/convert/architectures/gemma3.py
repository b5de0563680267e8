"""Gemma 3: Gemma 2 without soft caps, with norms on the heads of q and k, and five local layers for each global one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.architectures.gemma import Gemma
from densecore.convert.architectures.gemma2 import FOUR_NORMS
from densecore.convert.changes import one_more
from densecore.convert.decoder import GATED_MLP, attention
from densecore.convert.rules import row
from densecore.convert.windows import local_layers, window_metadata

__all__ = ["Gemma3"]

PERIOD = 6  # each sixth layer sees the whole context in the published models


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
        layers = range(1, self.n_layers + 1)
        period = config.integer("sliding_window_pattern", "_sliding_window_pattern", default=PERIOD)
        local = local_layers(self, [layer % period != 0 for layer in layers])
        yield from window_metadata(
            self, config.integer("sliding_window"), local, [layer % PERIOD != 0 for layer in layers]
        )
