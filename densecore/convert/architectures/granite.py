"""Granite 3: Llama with scaled embeddings, attention, residuals and logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.architectures.llama import Llama

__all__ = ["Granite"]


class Granite(Llama):
    """See the module's text."""

    architecture = "granite"
    classes = ("GraniteForCausalLM", "GraniteModel")
    model_types = ("granite",)

    def windows(self) -> Iterator[tuple[str, Any]]:
        return iter(())

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        for key, name in (
            ("attention.scale", "attention_multiplier"),
            ("embedding_scale", "embedding_multiplier"),
            ("residual_scale", "residual_multiplier"),
            ("logit_scale", "logits_scaling"),
        ):
            if self.config.has(name):
                yield key, self.config.number(name)
