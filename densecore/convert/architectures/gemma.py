"""Gemma: norms that multiply by 1 + weight, which GGUF files hold as one number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

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
    n_layers_of_27b: ClassVar[int] = 0  # whose attention is scaled by dim / n_heads
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

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        self._check_scale()

    def _check_scale(self) -> None:
        """No key of these architectures says how attention is scaled: runtimes know it by the number of layers."""
        sizes = self.sizes
        wanted = sizes["head"] if self.n_layers != self.n_layers_of_27b else sizes["dim"] / sizes["n_heads"]
        found = self.config.number("query_pre_attn_scalar", default=wanted)
        if found != wanted:
            allowed = f"{wanted:g}: GGUF files cannot express another scale"
            raise self.config.error("query_pre_attn_scalar", f"is {found:g}", allowed)
