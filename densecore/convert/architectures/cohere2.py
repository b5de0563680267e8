"""Command R7B and Command A: Command-R with three layers that see a window for each one that sees everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.decoder import GATED_MLP, Decoder, attention
from densecore.convert.rules import row

__all__ = ["Cohere2"]

PERIOD = 4  # each fourth layer sees the whole context; no key of GGUF files says so


class Cohere2(Decoder):
    """See the module's text. RoPE rotates neighbours in the checkpoint too, so nothing is reordered."""

    architecture = "cohere2"
    classes = ("Cohere2ForCausalLM", "Cohere2Model")
    model_types = ("cohere2",)
    norm_key = "attention.layer_norm_epsilon"
    norm_names = ("layer_norm_eps",)
    block = (
        row("blk.{}.attn_norm", "layers.{}.input_layernorm", "dim"),
        *attention(),
        *GATED_MLP,
    )

    def metadata(self) -> Iterator[tuple[str, Any]]:
        self._check_pattern()
        yield from super().metadata()
        yield "logit_scale", self.config.number("logit_scale")
        yield "attention.sliding_window", self.config.integer("sliding_window")
        yield "vocab_size", self.sizes["vocab"]
        yield "rope.scaling.type", "none"

    def _check_pattern(self) -> None:
        kinds = self.config.strings("layer_types", default=None)
        usual = ["sliding_attention"] * self.n_layers
        usual[PERIOD - 1 :: PERIOD] = ["full_attention"] * (self.n_layers // PERIOD)
        if kinds is not None and kinds != usual:
            raise self.config.error("layer_types", f"is {kinds}", f"full_attention for each fourth layer: {usual}")
