"""StableLM 2: LayerNorm, a rotated part of each head, and in the larger models a norm for each head of q and k."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.decoder import GATED_MLP, Decoder, attention
from densecore.convert.rope import RopeSettings
from densecore.convert.rules import linear, row

__all__ = ["StableLM"]


class StableLM(Decoder):
    """See the module's text."""

    architecture = "stablelm"
    classes = ("StableLmForCausalLM", "StableLMEpochForCausalLM", "StableLmModel")
    model_types = ("stablelm", "stablelm_epoch")
    norm_key = "attention.layer_norm_epsilon"
    norm_names = ("layer_norm_eps", "norm_eps")
    once = (
        row("token_embd", "embed_tokens", "vocab dim"),
        *linear("output_norm", "norm", "dim", bias="required"),
    )
    block = (
        *linear("blk.{}.attn_norm", "layers.{}.input_layernorm", "dim", bias="required"),
        *attention(),
        row("blk.{}.attn_q_norm", "layers.{}.self_attn.q_layernorm.norms.{head}", "head", optional=True),
        row("blk.{}.attn_k_norm", "layers.{}.self_attn.k_layernorm.norms.{kv_head}", "head", optional=True),
        *linear("blk.{}.ffn_norm", "layers.{}.post_attention_layernorm", "dim", bias="absent"),
        *GATED_MLP,
    )

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        yield "use_parallel_residual", self.config.boolean("use_parallel_residual", default=True)

    def rope_metadata(self) -> Iterator[tuple[str, Any]]:
        yield "rope.dimension_count", self.rope_dim
        yield from RopeSettings(self.config).metadata()

    @property
    def rope_dim(self) -> int:
        return int(self.sizes["head"] * RopeSettings(self.config).fraction(0.25))
