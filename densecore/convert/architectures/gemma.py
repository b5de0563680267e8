"""Gemma: norms that multiply by 1 + weight, which GGUF files hold as one number."""

from __future__ import annotations

from typing import ClassVar

from densecore.convert.changes import one_more
from densecore.convert.decoder import GATED_MLP, Decoder, attention
from densecore.convert.rules import Row, row

__all__ = ["Gemma"]


class Gemma(Decoder):
    """See the module's text."""

    architecture = "gemma"
    classes: ClassVar[tuple[str, ...]] = ("GemmaForCausalLM", "GemmaModel")
    model_types: ClassVar[tuple[str, ...]] = ("gemma",)
    space_prefix = False
    once = (
        row("token_embd", "embed_tokens", "vocab dim"),
        row("output_norm", "norm", "dim", one_more),
    )
    block: ClassVar[tuple[Row, ...]] = (
        row("blk.{}.attn_norm", "layers.{}.input_layernorm", "dim", one_more),
        row("blk.{}.ffn_norm", "layers.{}.post_attention_layernorm", "dim", one_more),
        *attention(),
        *GATED_MLP,
    )
