"""Qwen2 and Qwen2.5: Llama's names, with biases on q, k and v, and RoPE over the halves of a head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from densecore.convert.decoder import GATED_MLP, NORMS, Decoder, attention
from densecore.convert.pooling import pooling_type
from densecore.convert.rules import Row

__all__ = ["Qwen2"]


class Qwen2(Decoder):
    """See the module's text. Embedding models say how they pool."""

    architecture = "qwen2"
    classes: ClassVar[tuple[str, ...]] = ("Qwen2ForCausalLM", "Qwen2Model")
    model_types: ClassVar[tuple[str, ...]] = ("qwen2",)
    block: ClassVar[tuple[Row, ...]] = (*NORMS, *attention(), *GATED_MLP)

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        yield from pooling_type(self.folder)
