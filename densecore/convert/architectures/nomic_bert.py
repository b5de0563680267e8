"""Nomic's BERT: rotary positions, q, k and v in one matrix, a gated feed-forward part, no biases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.architectures.bert import norm
from densecore.convert.pooling import pooling_type
from densecore.convert.rope import RopeSettings
from densecore.convert.rules import Rules, row

__all__ = ["NomicBert"]

# Settings of which runtimes know one value only: the names of the models' own code, and those of transformers.
_FIXED: tuple[tuple[str, Any], ...] = (
    ("activation_function", "swiglu"),
    ("hidden_act", "silu"),
    ("causal", False),
    ("qkv_proj_bias", False),
    ("mlp_fc1_bias", False),
    ("mlp_fc2_bias", False),
    ("prenorm", False),
    ("rotary_emb_fraction", 1.0),
    ("rotary_emb_interleaved", False),
    ("rotary_emb_scale_base", None),
    ("moe_every_n_layers", None),
)


class NomicBert(Rules):
    """See the module's text."""

    architecture = "nomic-bert"
    classes = ("NomicBertModel",)
    model_types = ("nomic_bert",)
    prefixes = ("bert.",)
    parts_left_out = ("pooler.", "cls.")
    once = (
        row("token_embd", "embeddings.word_embeddings", "vocab dim"),
        row("token_types", "embeddings.token_type_embeddings", "types dim"),
        *norm("token_embd_norm", "emb_ln"),
    )
    block = (
        row("blk.{}.attn_qkv", "encoder.layers.{}.attn.Wqkv", "qkv dim"),
        row("blk.{}.attn_output", "encoder.layers.{}.attn.out_proj", "dim dim"),
        *norm("blk.{}.attn_output_norm", "encoder.layers.{}.norm1"),
        row("blk.{}.ffn_up", "encoder.layers.{}.mlp.fc11", "hidden dim"),
        row("blk.{}.ffn_gate", "encoder.layers.{}.mlp.fc12", "hidden dim"),
        row("blk.{}.ffn_down", "encoder.layers.{}.mlp.fc2", "dim hidden"),
        *norm("blk.{}.layer_output_norm", "encoder.layers.{}.norm2"),
    )

    def read_sizes(self) -> dict[str, int]:
        config = self.config
        dim, n_heads = config.integer("n_embd", "hidden_size"), config.integer("n_head", "num_attention_heads")
        if config.integer("head_dim", default=dim // n_heads) * n_heads != dim:
            raise config.error("head_dim", f"times {n_heads} heads is not {dim}", "heads that fill the model's width")
        return {
            "dim": dim,
            "qkv": 3 * dim,
            "hidden": config.integer("n_inner", "intermediate_size"),
            "vocab": config.integer("vocab_size"),
            "types": config.integer("type_vocab_size", default=2),
        }

    def metadata(self) -> Iterator[tuple[str, Any]]:
        config = self.config
        for name, wanted in _FIXED:
            value = config.value(name)
            if value not in (None, wanted, 0 if wanted is None else wanted):
                raise config.error(name, f"is {value!r}", f"{wanted!r}: GGUF files cannot express another")
        yield "block_count", self.n_layers
        yield "context_length", self._context_length()
        yield "embedding_length", self.sizes["dim"]
        yield "feed_forward_length", self.sizes["hidden"]
        yield "attention.head_count", config.integer("n_head", "num_attention_heads")
        yield (
            "attention.layer_norm_epsilon",
            config.number("layer_norm_epsilon", "layer_norm_eps", default=1e-12, minimum=0.0),
        )
        yield "attention.causal", False
        settings = RopeSettings(config)
        if settings.kind != "default":
            raise settings.scaling.error("rope_type", f"is {settings.kind!r}", "'default'")
        yield "rope.freq_base", settings.theta()
        yield from pooling_type(self.folder)

    def check_activation(self) -> None:
        """One of `_FIXED`."""

    def _context_length(self) -> int:
        """Models trained for 2048 tokens name 8192, which they reach by scaling that GGUF files do not express."""
        positions = self.config.integer("n_positions", "max_position_embeddings")
        return min(positions, self.config.integer("max_trained_positions", default=2048))
