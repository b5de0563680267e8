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
        settings = RopeSettings(self.config)
        scaling = settings.scaling
        strength = scaling.number("mscale_all_dim", default=0.0) if settings.kind == "yarn" else 0.0
        for key, value in super().metadata():
            if not strength or key != "rope.scaling.yarn_attn_factor":
                yield key, value
        if strength:  # runtimes divide YaRN's factor by this one's
            yield "rope.scaling.yarn_log_multiplier", strength
            total = settings.magnitude() * settings.growth(strength)
            if abs(total - settings.growth()) > 1e-6:
                yield "rope.scaling.yarn_attn_factor", total
        if scaling.has("llama_4_scaling_beta"):
            yield "attention.temperature_scale", scaling.number("llama_4_scaling_beta")
