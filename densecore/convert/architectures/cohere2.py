"""Command R7B and Command A: Command-R with three layers that see a window for each one that sees everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.decoder import GATED_MLP, Decoder, attention
from densecore.convert.rules import row
from densecore.convert.windows import local_layers, window_metadata

__all__ = ["Cohere2"]

PERIOD = 4  # each fourth layer sees the whole context in the published models


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
        yield "rope.scaling.type", "none"  # unless the next ones say another
        yield from super().metadata()
        yield "logit_scale", self.config.number("logit_scale")
        yield "vocab_size", self.sizes["vocab"]
        usual = [layer % PERIOD != 0 for layer in range(1, self.n_layers + 1)]
        yield from window_metadata(self, self.config.integer("sliding_window"), local_layers(self, usual), usual)
