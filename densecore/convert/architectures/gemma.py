"""Gemma: norms that multiply by 1 + weight, which GGUF files hold as one number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from densecore.convert.changes import one_more
from densecore.convert.decoder import GATED_MLP, Decoder, attention
from densecore.convert.rules import Row, row
from densecore.convert.windows import left_out_elsewhere

__all__ = ["Gemma"]


class Gemma(Decoder):
    """See the module's text."""

    architecture = "gemma"
    classes: ClassVar[tuple[str, ...]] = ("GemmaForCausalLM", "GemmaModel")
    model_types: ClassVar[tuple[str, ...]] = ("gemma",)
    space_prefix = False
    activation = "gelu_tanh"
    activation_names = ("hidden_activation",)  # where it is absent or null, hidden_act has a name that does not count
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
        yield from self._scale()

    def _scale(self) -> Iterator[tuple[str, Any]]:
        """How attention is scaled, where that is not what runtimes know by the number of layers."""
        sizes = self.sizes
        usual = sizes["head"] if self.n_layers != self.n_layers_of_27b else sizes["dim"] / sizes["n_heads"]
        found = self.config.number("query_pre_attn_scalar", default=usual, minimum=1e-6)
        if found != usual:
            yield "attention.scale", found**-0.5
            left_out_elsewhere(f"query_pre_attn_scalar = {found:g}")
