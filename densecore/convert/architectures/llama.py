"""Llama 1 to 3, and Mistral, which has the same rules.

GGUF files of this architecture have a RoPE that rotates neighbours, so rows of q and k are reordered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from densecore.convert.decoder import GATED_MLP, NORMS, Decoder, attention
from densecore.convert.rules import Row
from densecore.convert.windows import window_metadata

__all__ = ["Llama"]

LLAMAS = ("LlamaForCausalLM", "LlamaModel", "llama")


class Llama(Decoder):
    """See the module's text."""

    architecture = "llama"
    classes: ClassVar[tuple[str, ...]] = ("LlamaForCausalLM", "LlamaModel", "MistralForCausalLM", "MistralModel")
    model_types: ClassVar[tuple[str, ...]] = ("llama", "mistral")
    block: ClassVar[tuple[Row, ...]] = (*NORMS, *attention(pairs=True), *GATED_MLP)

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        yield "vocab_size", self.sizes["vocab"]
        yield "rope.dimension_count", self.rope_dim
        yield from self.windows()

    def windows(self) -> Iterator[tuple[str, Any]]:
        """Mistral 7B of the first version has a window in all layers; Llama has none, whatever its config.json says."""
        if self.config.architecture not in LLAMAS and self.config.has("sliding_window"):
            yield from window_metadata(self, self.config.integer("sliding_window"), [True] * self.n_layers)
