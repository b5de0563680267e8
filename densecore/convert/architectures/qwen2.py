"""Qwen2 and Qwen2.5: Llama's names, with biases on q, k and v, and RoPE over the halves of a head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from densecore.convert.decoder import GATED_MLP, NORMS, Decoder, attention
from densecore.convert.pooling import pooling_type
from densecore.convert.rules import Row
from densecore.convert.windows import local_layers, window_metadata

__all__ = ["Qwen2"]


class Qwen2(Decoder):
    """See the module's text. Embedding models say how they pool."""

    architecture = "qwen2"
    classes: ClassVar[tuple[str, ...]] = ("Qwen2ForCausalLM", "Qwen2Model")
    model_types: ClassVar[tuple[str, ...]] = ("qwen2",)
    block: ClassVar[tuple[Row, ...]] = (*NORMS, *attention(), *GATED_MLP)

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        yield from self.windows()
        yield from pooling_type(self.folder)

    def windows(self) -> Iterator[tuple[str, Any]]:
        """No published model switches them on."""
        if self.config.boolean("use_sliding_window", default=False):
            first = self.config.integer("max_window_layers", default=28, minimum=0)
            local = local_layers(self, [layer >= first for layer in range(self.n_layers)])
            yield from window_metadata(self, self.config.integer("sliding_window", default=4096), local)
