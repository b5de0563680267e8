"""Llama 1 to 3, and Mistral, which has the same rules.

GGUF files of this architecture have a RoPE that rotates neighbours, so rows of q and k are reordered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from densecore.convert.decoder import GATED_MLP, NORMS, Decoder, attention
from densecore.convert.lazy import LazyTensor
from densecore.convert.rope import RopeSettings, llama3_factors
from densecore.convert.rules import Row

__all__ = ["Llama"]


class Llama(Decoder):
    """See the module's text."""

    architecture = "llama"
    classes: ClassVar[tuple[str, ...]] = ("LlamaForCausalLM", "LlamaModel", "MistralForCausalLM", "MistralModel")
    model_types: ClassVar[tuple[str, ...]] = ("llama", "mistral")
    block: ClassVar[tuple[Row, ...]] = (*NORMS, *attention(pairs=True), *GATED_MLP)

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        yield "vocab_size", self.sizes["vocab"]
        yield "rope.dimension_count", self.sizes["head"]

    def extra_tensors(self) -> Iterator[tuple[str, LazyTensor]]:
        settings = RopeSettings(self.config)
        if settings.kind == "llama3":
            yield "rope_freqs.weight", self.generated(llama3_factors(settings, self.sizes["head"]))
