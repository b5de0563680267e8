"""What most decoders share: names of tensors, dimensions and keys in the manner of Llama."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from densecore.convert.changes import split_heads
from densecore.convert.rope import RopeSettings
from densecore.convert.rules import Row, Rules, linear, row

__all__ = ["GATED_MLP", "NORMS", "ONCE", "Decoder", "attention"]

ONCE: tuple[Row, ...] = (
    row("token_embd", "embed_tokens", "vocab dim"),
    row("output_norm", "norm", "dim"),
)

NORMS: tuple[Row, ...] = (
    row("blk.{}.attn_norm", "layers.{}.input_layernorm", "dim"),
    row("blk.{}.ffn_norm", "layers.{}.post_attention_layernorm", "dim"),
)

GATED_MLP: tuple[Row, ...] = (
    *linear("blk.{}.ffn_gate", "layers.{}.mlp.gate_proj", "hidden dim"),
    *linear("blk.{}.ffn_up", "layers.{}.mlp.up_proj", "hidden dim"),
    *linear("blk.{}.ffn_down", "layers.{}.mlp.down_proj", "dim hidden"),
)


def attention(*, pairs: bool = False) -> tuple[Row, ...]:
    """The matrices of attention; with `pairs`, RoPE rotates neighbours, and rows of q and k are reordered for that."""
    q_change, k_change = (split_heads("q"), split_heads("kv")) if pairs else (None, None)
    return (
        *linear("blk.{}.attn_q", "layers.{}.self_attn.q_proj", "q dim", q_change),
        *linear("blk.{}.attn_k", "layers.{}.self_attn.k_proj", "kv dim", k_change),
        *linear("blk.{}.attn_v", "layers.{}.self_attn.v_proj", "kv dim"),
        *linear("blk.{}.attn_output", "layers.{}.self_attn.o_proj", "dim q"),
    )


class Decoder(Rules):
    """A decoder with Llama's names; subclasses say where they differ."""

    once: ClassVar[tuple[Row, ...]] = ONCE
    norm_key: ClassVar[str] = "attention.layer_norm_rms_epsilon"
    norm_names: ClassVar[tuple[str, ...]] = ("rms_norm_eps",)

    def read_sizes(self) -> dict[str, int]:
        config = self.config
        dim = config.integer("hidden_size", "n_embd")
        n_heads = config.integer("num_attention_heads", "n_head")
        n_kv_heads = config.integer("num_key_value_heads", "num_kv_heads", default=n_heads)
        if n_heads % n_kv_heads:
            problem = f"is {n_kv_heads}"
            raise config.error("num_key_value_heads", problem, f"a divisor of num_attention_heads = {n_heads}")
        if not config.has("head_dim") and dim % n_heads:
            raise config.error("hidden_size", f"is {dim}", f"a multiple of num_attention_heads = {n_heads}")
        head_dim = config.integer("head_dim", default=dim // n_heads)
        if head_dim % 2:
            raise config.error("head_dim", f"is {head_dim}", "an even number: RoPE rotates pairs")
        return {
            "dim": dim,
            "hidden": self.hidden_size(dim),
            "vocab": config.integer("vocab_size"),
            "n_heads": n_heads,
            "n_kv_heads": n_kv_heads,
            "head": head_dim,
            "q": n_heads * head_dim,
            "kv": n_kv_heads * head_dim,
        }

    def hidden_size(self, dim: int) -> int:
        """Width of the feed-forward part."""
        return self.config.integer("intermediate_size")

    def metadata(self) -> Iterator[tuple[str, Any]]:
        sizes, config = self.sizes, self.config
        yield "block_count", self.n_layers
        yield "context_length", config.integer("max_position_embeddings", "n_positions", "n_ctx")
        yield "embedding_length", sizes["dim"]
        yield "feed_forward_length", sizes["hidden"]
        yield "attention.head_count", sizes["n_heads"]
        yield "attention.head_count_kv", sizes["n_kv_heads"]
        yield self.norm_key, config.number(*self.norm_names, minimum=0.0)
        if config.has("head_dim"):
            yield "attention.key_length", sizes["head"]
            yield "attention.value_length", sizes["head"]
        yield from self.rope_metadata()

    def rope_metadata(self) -> Iterator[tuple[str, Any]]:
        """Keys about rotary embedding."""
        if self.rope_dim != self.sizes["head"]:
            yield "rope.dimension_count", self.rope_dim
        yield from RopeSettings(self.config).metadata()

    @property
    def rope_dim(self) -> int:
        return self.sizes["head"]

    def tensors(self) -> Iterator[Any]:
        yield from self.output_tensor()
        yield from super().tensors()

    def output_tensor(self) -> Iterator[Any]:
        """The output matrix, unless it is the embedding."""
        name = "lm_head.weight"
        if self.tied:
            if self.has(name):
                self.take(name, self.shape_of("vocab dim"))  # a copy of the embedding
        elif self.has(name) or not self.headless:
            yield from self.apply(row("output", "lm_head", "vocab dim"))

    @property
    def tied(self) -> bool:
        """Whether the output matrix is the embedding: by the setting, or where it is absent by what is there."""
        return self.config.boolean("tie_word_embeddings", default=not self.has("lm_head.weight"))

    @property
    def headless(self) -> bool:
        """Whether this is a model of hidden states, such as an embedding model: its class ends in ``Model``."""
        return self.config.architecture.endswith("Model")
