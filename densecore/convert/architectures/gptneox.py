"""GPT-NeoX and Pythia: q, k and v of each head beside each other, which GGUF files have one below the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.lazy import LazyTensor
from densecore.convert.rope import RopeSettings
from densecore.convert.rules import Rules, linear, row

__all__ = ["GPTNeoX"]


def _by_kind(rules: Rules, tensor: LazyTensor) -> LazyTensor:
    """Rows in the order of heads, each with its q, k and v, as all q, all k, all v."""
    view = tensor.view.reshape(rules.sizes["n_heads"], 3, rules.sizes["head"], *tensor.shape[1:])
    return tensor.viewed(view.swapaxes(0, 1), shape=tensor.shape)


class GPTNeoX(Rules):
    """See the module's text."""

    architecture = "gptneox"
    classes = ("GPTNeoXForCausalLM", "GPTNeoXModel")
    model_types = ("gpt_neox",)
    prefixes = ("gpt_neox.",)
    activation = "gelu"
    ignored = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")
    once = (
        row("token_embd", "embed_in", "vocab dim"),
        *linear("output_norm", "final_layer_norm", "dim", bias="required"),
    )
    block = (
        *linear("blk.{}.attn_norm", "layers.{}.input_layernorm", "dim", bias="required"),
        *linear("blk.{}.attn_qkv", "layers.{}.attention.query_key_value", "qkv dim", _by_kind),
        *linear("blk.{}.attn_output", "layers.{}.attention.dense", "dim dim"),
        *linear("blk.{}.ffn_norm", "layers.{}.post_attention_layernorm", "dim", bias="required"),
        *linear("blk.{}.ffn_up", "layers.{}.mlp.dense_h_to_4h", "hidden dim"),
        *linear("blk.{}.ffn_down", "layers.{}.mlp.dense_4h_to_h", "dim hidden"),
    )

    def read_sizes(self) -> dict[str, int]:
        config = self.config
        dim, n_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
        if dim % n_heads:
            raise config.error("hidden_size", f"is {dim}", f"a multiple of num_attention_heads = {n_heads}")
        return {
            "dim": dim,
            "qkv": 3 * dim,
            "n_heads": n_heads,
            "head": dim // n_heads,
            "hidden": config.integer("intermediate_size"),
            "vocab": config.integer("vocab_size"),
        }

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield "block_count", self.n_layers
        yield "context_length", self.config.integer("max_position_embeddings")
        yield "embedding_length", self.sizes["dim"]
        yield "feed_forward_length", self.sizes["hidden"]
        yield "rope.dimension_count", self.rope_dim
        yield "attention.head_count", self.sizes["n_heads"]
        yield "use_parallel_residual", self.config.boolean("use_parallel_residual", default=True)
        yield "attention.layer_norm_epsilon", self.config.number("layer_norm_eps", minimum=0.0)
        yield from RopeSettings(self.config).metadata()

    @property
    def rope_dim(self) -> int:
        return int(RopeSettings(self.config).fraction(0.25) * self.sizes["head"])

    def tensors(self) -> Iterator[Any]:
        if self.has("embed_out.weight"):
            yield from self.apply(row("output", "embed_out", "vocab dim"))
        elif self.has("lm_head.weight"):
            yield from self.apply(row("output", "lm_head", "vocab dim"))
        yield from super().tensors()
