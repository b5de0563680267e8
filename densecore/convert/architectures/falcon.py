"""Falcon: heads share keys and values in groups that lie in one piece; GGUF files have all q, all k, all v."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.lazy import LazyTensor
from densecore.convert.rope import RopeSettings
from densecore.convert.rules import Row, Rules, linear, row

__all__ = ["Falcon"]


def _by_kind(rules: Rules, tensor: LazyTensor) -> LazyTensor:
    """Rows in the order of groups, each with its queries, one key and one value, as all q, all k, all v."""
    sizes = rules.sizes
    view = tensor.view.reshape(sizes["n_kv_heads"], -1, sizes["head"], *tensor.shape[1:])
    return tensor.viewed(view[:, :-2], view[:, -2], view[:, -1], shape=tensor.shape)


class Falcon(Rules):
    """See the module's text. Attention and feed-forward run side by side, after one norm or after one each."""

    architecture = "falcon"
    classes = ("FalconForCausalLM", "RWForCausalLM", "FalconModel")
    model_types = ("falcon",)
    prefixes = ("transformer.",)
    activation = "gelu"
    activation_names = ("activation",)
    once = (
        row("token_embd", "word_embeddings", "vocab dim"),
        *linear("output_norm", "ln_f", "dim", bias="required"),
    )
    block = (
        *linear("blk.{}.attn_qkv", "h.{}.self_attention.query_key_value", "qkv dim", _by_kind),
        *linear("blk.{}.attn_output", "h.{}.self_attention.dense", "dim dim"),
        *linear("blk.{}.ffn_up", "h.{}.mlp.dense_h_to_4h", "hidden dim"),
        *linear("blk.{}.ffn_down", "h.{}.mlp.dense_4h_to_h", "dim hidden"),
    )
    one_norm = (*linear("blk.{}.attn_norm", "h.{}.input_layernorm", "dim", bias="required"),)
    two_norms = (
        *linear("blk.{}.attn_norm", "h.{}.ln_mlp", "dim", bias="required"),
        *linear("blk.{}.attn_norm_2", "h.{}.ln_attn", "dim", bias="required"),
    )

    def block_rows(self, layer: int) -> tuple[Row, ...]:
        return (*(self.two_norms if self.has("h.0.ln_attn.weight") else self.one_norm), *self.block)

    def read_sizes(self) -> dict[str, int]:
        config = self.config
        dim, n_heads = config.integer("hidden_size"), config.integer("num_attention_heads", "n_head")
        if config.boolean("new_decoder_architecture", default=config.has("n_head_kv")):
            n_kv_heads = config.integer("num_kv_heads", "n_head_kv", default=n_heads)
        else:
            n_kv_heads = 1 if config.boolean("multi_query", default=True) else n_heads
        if dim % n_heads or n_heads % n_kv_heads:
            raise config.error(
                "num_attention_heads", f"is {n_heads}", f"a divisor of {dim}, a multiple of {n_kv_heads}"
            )
        head = dim // n_heads
        return {
            "dim": dim,
            "n_heads": n_heads,
            "n_kv_heads": n_kv_heads,
            "head": head,
            "qkv": (n_heads + 2 * n_kv_heads) * head,
            "hidden": config.integer("ffn_hidden_size", default=4 * dim),
            "vocab": config.integer("vocab_size"),
        }

    def metadata(self) -> Iterator[tuple[str, Any]]:
        config = self.config
        for name, wanted in (("alibi", False), ("parallel_attn", True)):
            if config.boolean(name, default=wanted) is not wanted:
                raise config.error(name, f"is {not wanted}", f"{wanted}: GGUF files cannot express the other kind")
        yield "context_length", config.integer("max_position_embeddings", default=2048)
        yield "tensor_data_layout", "jploski"  # the name for this order of q, k and v
        yield "embedding_length", self.sizes["dim"]
        yield "feed_forward_length", self.sizes["hidden"]
        yield "block_count", self.n_layers
        yield "attention.head_count", self.sizes["n_heads"]
        yield "attention.head_count_kv", self.sizes["n_kv_heads"]
        yield "attention.layer_norm_epsilon", config.number("layer_norm_epsilon", minimum=0.0)
        yield from RopeSettings(config).metadata()

    @property
    def rope_dim(self) -> int:
        return self.sizes["head"]

    def tensors(self) -> Iterator[Any]:
        if self.has("lm_head.weight"):
            yield from self.apply(row("output", "lm_head", "vocab dim"))
        yield from super().tensors()
