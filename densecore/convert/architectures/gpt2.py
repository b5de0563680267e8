"""GPT-2: learned positions, and matrices stored as (n_in, n_out), which GGUF files have the other way round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.changes import transposed
from densecore.convert.rules import Row, Rules, linear, row

__all__ = ["GPT2"]


def _conv(target: str, source: str, n_in: str, n_out: str) -> list[Row]:
    """A matrix (n_in, n_out) and its bias."""
    return [row(target, source, f"{n_in} {n_out}", transposed), Row(f"{target}.bias", f"{source}.bias", n_out)]


class GPT2(Rules):
    """See the module's text."""

    architecture = "gpt2"
    classes = ("GPT2LMHeadModel", "GPT2Model")
    model_types = ("gpt2",)
    prefixes = ("transformer.",)
    activation = "gelu_tanh"
    activation_names = ("activation_function",)
    ignored = (".attn.bias", ".attn.masked_bias")
    once = (
        row("token_embd", "wte", "vocab dim"),
        row("position_embd", "wpe", "positions dim"),
        *linear("output_norm", "ln_f", "dim", bias="required"),
    )
    block = (
        *linear("blk.{}.attn_norm", "h.{}.ln_1", "dim", bias="required"),
        *_conv("blk.{}.attn_qkv", "h.{}.attn.c_attn", "dim", "qkv"),
        *_conv("blk.{}.attn_output", "h.{}.attn.c_proj", "dim", "dim"),
        *linear("blk.{}.ffn_norm", "h.{}.ln_2", "dim", bias="required"),
        *_conv("blk.{}.ffn_up", "h.{}.mlp.c_fc", "dim", "hidden"),
        *_conv("blk.{}.ffn_down", "h.{}.mlp.c_proj", "hidden", "dim"),
    )

    def read_sizes(self) -> dict[str, int]:
        config = self.config
        dim = config.integer("n_embd", "hidden_size")
        return {
            "dim": dim,
            "qkv": 3 * dim,
            "hidden": config.integer("n_inner", default=4 * dim),
            "vocab": config.integer("vocab_size"),
            "positions": config.integer("n_positions", "n_ctx"),
        }

    def metadata(self) -> Iterator[tuple[str, Any]]:
        self._check_scale()
        yield "block_count", self.n_layers
        yield "context_length", self.sizes["positions"]
        yield "embedding_length", self.sizes["dim"]
        yield "feed_forward_length", self.sizes["hidden"]
        yield "attention.head_count", self.config.integer("n_head", "num_attention_heads")
        yield "attention.layer_norm_epsilon", self.config.number("layer_norm_epsilon", default=1e-5, minimum=0.0)

    def tensors(self) -> Iterator[Any]:
        if self.has("lm_head.weight"):
            if self.config.boolean("tie_word_embeddings", default=True):
                self.take("lm_head.weight", self.shape_of("vocab dim"))  # a copy of the embedding
            else:
                yield from self.apply(row("output", "lm_head", "vocab dim"))
        yield from super().tensors()

    def _check_scale(self) -> None:
        """No key says how scores are scaled."""
        for name, wanted in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
            if self.config.boolean(name, default=wanted) is not wanted:
                raise self.config.error(name, f"is {not wanted}", f"{wanted}: GGUF files cannot express the other kind")
