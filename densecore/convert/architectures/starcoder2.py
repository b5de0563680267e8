"""StarCoder2: LayerNorm, biases everywhere, and a feed-forward part without a gate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.decoder import Decoder, attention
from densecore.convert.rules import linear, row
from densecore.convert.windows import window_metadata

__all__ = ["StarCoder2"]


class StarCoder2(Decoder):
    """See the module's text."""

    architecture = "starcoder2"
    classes = ("Starcoder2ForCausalLM", "Starcoder2Model")
    model_types = ("starcoder2",)
    activation = "gelu_tanh"
    norm_key = "attention.layer_norm_epsilon"
    norm_names = ("norm_epsilon",)
    once = (
        row("token_embd", "embed_tokens", "vocab dim"),
        *linear("output_norm", "norm", "dim", bias="required"),
    )
    block = (
        *linear("blk.{}.attn_norm", "layers.{}.input_layernorm", "dim", bias="required"),
        *attention(),
        *linear("blk.{}.ffn_norm", "layers.{}.post_attention_layernorm", "dim", bias="required"),
        *linear("blk.{}.ffn_up", "layers.{}.mlp.c_fc", "hidden dim"),
        *linear("blk.{}.ffn_down", "layers.{}.mlp.c_proj", "dim hidden"),
    )

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        if self.config.has("sliding_window"):
            yield from window_metadata(self, self.config.integer("sliding_window"), [True] * self.n_layers)
