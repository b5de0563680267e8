"""SmolLM3: Llama, with layers that have no position embedding, which runtimes know by their number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.architectures.llama import Llama
from densecore.convert.windows import local_layers, window_metadata

__all__ = ["SmolLM3"]


class SmolLM3(Llama):
    """See the module's text."""

    architecture = "smollm3"
    classes = ("SmolLM3ForCausalLM", "SmolLM3Model")
    model_types = ("smollm3",)

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        layers = self.config.numbers("no_rope_layers", default=None)
        usual = [int((layer + 1) % 4 != 0) for layer in range(self.n_layers)]
        if layers is not None and list(layers) != usual:
            allowed = "1 for three layers and 0 for each fourth, which is all that GGUF files can express"
            raise self.config.error("no_rope_layers", f"is {layers}", allowed)

    def windows(self) -> Iterator[tuple[str, Any]]:
        """Where they are switched on, it is layers without RoPE that have one."""
        if self.config.boolean("use_sliding_window", default=False) and self.config.has("sliding_window"):
            local = local_layers(self, [(layer + 1) % 4 == 0 for layer in range(self.n_layers)])
            yield from window_metadata(self, self.config.integer("sliding_window"), local)
