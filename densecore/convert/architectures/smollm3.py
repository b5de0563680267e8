"""SmolLM3: Llama, with layers that have no position embedding, which runtimes know by their number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.architectures.llama import Llama
from densecore.convert.windows import left_out_elsewhere, local_layers, window_metadata

__all__ = ["SmolLM3"]

PERIOD = 4  # each fourth layer has no RoPE, which no key tells


class SmolLM3(Llama):
    """See the module's text."""

    architecture = "smollm3"
    classes = ("SmolLM3ForCausalLM", "SmolLM3Model")
    model_types = ("smollm3",)

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        rotating = self._rotating()
        if rotating != [(layer + 1) % PERIOD != 0 for layer in range(self.n_layers)]:
            yield "rope.layers", rotating
            left_out_elsewhere("other layers without RoPE than each fourth")

    def _rotating(self) -> list[bool]:
        """Of each layer, whether it has RoPE."""
        period = self.config.integer("no_rope_layer_interval", default=PERIOD)
        usual = [int((layer + 1) % period != 0) for layer in range(self.n_layers)]
        layers = self.config.numbers("no_rope_layers", default=usual)
        if len(layers) != self.n_layers or not {0, 1}.issuperset(layers):
            allowed = f"0 or 1 for each of {self.n_layers} layers"
            raise self.config.error("no_rope_layers", f"is {layers}", allowed)
        return [layer == 1 for layer in layers]

    def windows(self) -> Iterator[tuple[str, Any]]:
        """Where they are switched on, it is layers without RoPE that have one."""
        if self.config.boolean("use_sliding_window", default=False) and self.config.has("sliding_window"):
            local = local_layers(self, [not rotates for rotates in self._rotating()])
            yield from window_metadata(self, self.config.integer("sliding_window"), local)
