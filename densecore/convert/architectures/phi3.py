"""Phi-3 and Phi-4: q, k and v in one matrix, gate and up in another, and two sets of RoPE factors for long contexts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from densecore.convert.decoder import NORMS, Decoder
from densecore.convert.lazy import LazyTensor
from densecore.convert.rope import RopeSettings
from densecore.convert.rules import row

__all__ = ["Phi3"]


class Phi3(Decoder):
    """See the module's text."""

    architecture = "phi3"
    classes = ("Phi3ForCausalLM", "Phi3Model")
    model_types = ("phi3",)
    block = (
        *NORMS,
        row("blk.{}.attn_qkv", "layers.{}.self_attn.qkv_proj", "qkv dim"),
        row("blk.{}.attn_output", "layers.{}.self_attn.o_proj", "dim q"),
        row("blk.{}.ffn_up", "layers.{}.mlp.gate_up_proj", "gate_up dim"),
        row("blk.{}.ffn_down", "layers.{}.mlp.down_proj", "dim hidden"),
    )

    def read_sizes(self) -> dict[str, int]:
        sizes = super().read_sizes()
        return sizes | {"qkv": sizes["q"] + 2 * sizes["kv"], "gate_up": 2 * sizes["hidden"]}

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        yield "attention.sliding_window", self.config.integer("sliding_window", default=0, minimum=0)

    def rope_metadata(self) -> Iterator[tuple[str, Any]]:
        settings = RopeSettings(self.config)
        context = self.config.integer("max_position_embeddings")
        original = settings.original_context(context)
        yield "rope.scaling.original_context_length", original
        yield "rope.dimension_count", self._n_rotated(settings)
        yield "rope.freq_base", settings.theta()
        if settings.scaling.has("long_factor"):
            yield "rope.scaling.attn_factor", _attention_factor(settings, context / original, original)

    def extra_tensors(self) -> Iterator[tuple[str, LazyTensor]]:
        settings = RopeSettings(self.config)
        if not settings.scaling.has("long_factor"):
            return
        n_factors = self._n_rotated(settings) // 2
        for name in ("long_factor", "short_factor"):
            factors = settings.scaling.numbers(name)
            if len(factors) != n_factors:
                raise settings.scaling.error(name, f"has {len(factors)} numbers", f"{n_factors}")
            target = f"rope_factors_{name.removesuffix('_factor')}.weight"
            yield target, self.generated(np.array(factors, np.float32))

    def _n_rotated(self, settings: RopeSettings) -> int:
        return int(self.sizes["head"] * settings.fraction())


def _attention_factor(settings: RopeSettings, scale: float, original: int) -> float:
    """What queries and keys are multiplied by in long contexts: as transformers computes it for each kind."""
    if scale <= 1.0:
        return 1.0
    if settings.kind == "longrope":
        return math.sqrt(1 + math.log(scale) / math.log(original))
    return 0.1 * math.log(scale) + 1.0
