"""Mistral 3 and Ministral 3: Llama, with queries that grow with their position. Images are left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.architectures.llama import Llama
from densecore.convert.rope import RopeSettings

__all__ = ["Mistral3"]


class Mistral3(Llama):
    """See the module's text."""

    architecture = "mistral3"
    classes = ("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM")
    model_types = ("ministral3", "mistral3")
    prefixes = ("language_model.", "model.", "language_model.")
    parts_left_out = ("vision_tower.", "multi_modal_projector.")

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        scaling = RopeSettings(self.config).scaling
        if scaling.has("mscale_all_dim"):
            yield "rope.scaling.yarn_log_multiplier", scaling.number("mscale_all_dim")
        if scaling.has("llama_4_scaling_beta"):
            yield "attention.temperature_scale", scaling.number("llama_4_scaling_beta")
