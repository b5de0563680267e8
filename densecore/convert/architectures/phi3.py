"""Phi-3 and Phi-4: q, k and v in one matrix, gate and up in another, and two sets of RoPE factors for long contexts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.decoder import NORMS, Decoder
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
        yield "rope.scaling.original_context_length", settings.original_context()
        yield "rope.dimension_count", self.rope_dim
        if settings.scaling.has("long_factor"):  # of this architecture no type is written, and old files say YaRN
            yield "rope.freq_base", settings.theta()
            yield "rope.scaling.attn_factor", settings.magnitude()
        else:
            yield from settings.metadata()

    @property
    def rope_dim(self) -> int:
        return int(self.sizes["head"] * RopeSettings(self.config).fraction())
