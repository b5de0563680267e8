"""DeepSeek V2 and V3: keys and values from one small vector (MLA), and experts after a few layers without.

Files hold the matrix that makes keys and values of that vector in two parts, by head; the part for keys is transposed,
so that it can be applied to queries instead, and the cache needs only the small vector.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from densecore.convert.decoder import GATED_MLP, NORMS, Decoder
from densecore.convert.lazy import LazyTensor
from densecore.convert.rope import RopeSettings
from densecore.convert.rules import Change, Row, Rules, linear, row

__all__ = ["DeepSeek2"]

SOFTMAX, SIGMOID = 1, 2  # expert_gating_func


def _keys_by_head(rules: Rules, tensor: LazyTensor) -> LazyTensor:
    """(n_heads, kv_rank, qk_nope): what turns queries into vectors that meet the cached one."""
    sizes = rules.sizes
    view = tensor.view.reshape(sizes["n_heads"], -1, sizes["kv_rank"])[:, : sizes["nope"]].swapaxes(1, 2)
    return tensor.viewed(view, shape=view.shape)


def _values_by_head(rules: Rules, tensor: LazyTensor) -> LazyTensor:
    """(n_heads, v_head, kv_rank): what makes values of the cached vector."""
    sizes = rules.sizes
    view = tensor.view.reshape(sizes["n_heads"], -1, sizes["kv_rank"])[:, sizes["nope"] :]
    return tensor.viewed(view, shape=view.shape)


def _neighbours(groups: str, kept: str) -> Change:
    """Reorders rows for a RoPE that rotates neighbours, where the checkpoint's rotates halves.

    There are `groups` groups of rows, in each of which RoPE rotates those behind the first `kept`.
    """

    def change(rules: Rules, tensor: LazyTensor) -> LazyTensor:
        if rules.config.boolean("rope_interleave", default=True):
            return tensor
        n_kept, half, rest = rules.sizes[kept], rules.sizes["rope"] // 2, tensor.shape[1:]
        pieces = []
        for group in tensor.view.reshape(rules.sizes[groups], -1, *rest):
            pieces += [group[:n_kept], group[n_kept:].reshape(2, half, *rest).swapaxes(0, 1)]
        return tensor.viewed(*pieces, shape=tensor.shape)

    return change


_ATTENTION: tuple[Row, ...] = (
    *linear(
        "blk.{}.attn_kv_a_mqa", "layers.{}.self_attn.kv_a_proj_with_mqa", "kv_a dim", _neighbours("one", "kv_rank")
    ),
    row("blk.{}.attn_kv_a_norm", "layers.{}.self_attn.kv_a_layernorm", "kv_rank"),
    row("blk.{}.attn_k_b", "layers.{}.self_attn.kv_b_proj", "kv_b kv_rank", _keys_by_head),
    row("blk.{}.attn_v_b", "layers.{}.self_attn.kv_b_proj", "kv_b kv_rank", _values_by_head),
    *linear("blk.{}.attn_output", "layers.{}.self_attn.o_proj", "dim z"),
)
_LOW_RANK_QUERIES: tuple[Row, ...] = (
    *linear("blk.{}.attn_q_a", "layers.{}.self_attn.q_a_proj", "q_rank dim"),
    row("blk.{}.attn_q_a_norm", "layers.{}.self_attn.q_a_layernorm", "q_rank"),
    row("blk.{}.attn_q_b", "layers.{}.self_attn.q_b_proj", "q q_rank", _neighbours("n_heads", "nope")),
)
_QUERIES: tuple[Row, ...] = (
    row("blk.{}.attn_q", "layers.{}.self_attn.q_proj", "q dim", _neighbours("n_heads", "nope")),
)
_EXPERTS: tuple[Row, ...] = (
    row("blk.{}.ffn_gate_inp", "layers.{}.mlp.gate", "experts dim"),
    Row("blk.{}.exp_probs_b.bias", "layers.{}.mlp.gate.e_score_correction_bias", "experts", optional=True),
    row("blk.{}.ffn_gate_exps", "layers.{}.mlp.experts.{expert}.gate_proj", "expert dim"),
    row("blk.{}.ffn_up_exps", "layers.{}.mlp.experts.{expert}.up_proj", "expert dim"),
    row("blk.{}.ffn_down_exps", "layers.{}.mlp.experts.{expert}.down_proj", "dim expert"),
)
_SHARED: tuple[Row, ...] = (
    *linear("blk.{}.ffn_gate_shexp", "layers.{}.mlp.shared_experts.gate_proj", "shared dim"),
    *linear("blk.{}.ffn_up_shexp", "layers.{}.mlp.shared_experts.up_proj", "shared dim"),
    *linear("blk.{}.ffn_down_shexp", "layers.{}.mlp.shared_experts.down_proj", "dim shared"),
)


class DeepSeek2(Decoder):
    """See the module's text. Layers that predict several tokens at once are left out."""

    architecture = "deepseek2"
    classes = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM")
    model_types = ("deepseek_v2", "deepseek_v3")

    def read_sizes(self) -> dict[str, int]:
        config = self.config
        dim, n_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
        nope, rope = config.integer("qk_nope_head_dim"), config.integer("qk_rope_head_dim")
        v_head, kv_rank = config.integer("v_head_dim"), config.integer("kv_lora_rank")
        expert = config.integer("moe_intermediate_size")
        return {
            "dim": dim,
            "hidden": config.integer("intermediate_size"),
            "vocab": config.integer("vocab_size"),
            "one": 1,
            "n_heads": n_heads,
            "nope": nope,
            "rope": rope,
            "kv_rank": kv_rank,
            "kv_a": kv_rank + rope,
            "kv_b": n_heads * (nope + v_head),
            "q_rank": config.integer("q_lora_rank", default=0, minimum=0),
            "q": n_heads * (nope + rope),
            "v_head": v_head,
            "z": n_heads * v_head,
            "experts": config.integer("n_routed_experts", default=0, minimum=0, maximum=4096),
            "expert": expert,
            "shared": expert * config.integer("n_shared_experts", default=0, minimum=0),
        }

    @property
    def _n_dense(self) -> int:
        """Layers without experts, which come first."""
        if not self.sizes["experts"]:
            return self.n_layers
        return self.config.integer("first_k_dense_replace", default=0, minimum=0)

    def block_rows(self, layer: int) -> tuple[Row, ...]:
        queries = _LOW_RANK_QUERIES if self.sizes["q_rank"] else _QUERIES
        if layer < self._n_dense:
            return (*NORMS, *queries, *_ATTENTION, *GATED_MLP)
        return (*NORMS, *queries, *_ATTENTION, *_EXPERTS, *(_SHARED if self.sizes["shared"] else ()))

    def rename(self, name: str) -> str | None:
        short = super().rename(name)
        part = short.split(".") if short else []
        n_layers = self.config.integer("num_hidden_layers")
        if len(part) > 1 and part[0] == "layers" and part[1].isdecimal() and int(part[1]) >= n_layers:
            return None
        return short

    def metadata(self) -> Iterator[tuple[str, Any]]:
        sizes, config = self.sizes, self.config
        yield "block_count", self.n_layers
        yield "context_length", config.integer("max_position_embeddings")
        yield "embedding_length", sizes["dim"]
        yield "feed_forward_length", sizes["hidden"]
        yield "attention.head_count", sizes["n_heads"]
        yield "attention.head_count_kv", 1  # all heads of queries share the cached vector
        yield "attention.layer_norm_rms_epsilon", config.number("rms_norm_eps", default=1e-6, minimum=0.0)
        yield "vocab_size", sizes["vocab"]
        if sizes["q_rank"]:
            yield "attention.q_lora_rank", sizes["q_rank"]
        yield "attention.kv_lora_rank", sizes["kv_rank"]
        yield "attention.key_length", sizes["kv_a"]
        yield "attention.value_length", sizes["kv_rank"]
        yield "attention.key_length_mla", sizes["nope"] + sizes["rope"]
        yield "attention.value_length_mla", sizes["v_head"]
        yield from self._expert_metadata()
        yield "rope.dimension_count", self.rope_dim
        yield from self._rope_metadata()

    @property
    def rope_dim(self) -> int:
        return self.sizes["rope"]

    def _rope_metadata(self) -> Iterator[tuple[str, Any]]:
        """Where ``mscale_all_dim`` puts YaRN's factor on the scores, rotated values have another, or usually none."""
        settings = RopeSettings(self.config)
        on_scores = settings.scaling.number("mscale_all_dim", default=0.0) if settings.kind == "yarn" else 0.0
        for key, value in settings.metadata():
            if not on_scores or key != "rope.scaling.yarn_attn_factor":
                yield key, value
        if on_scores:
            yield "rope.scaling.yarn_log_multiplier", 0.1 * on_scores
            if settings.magnitude() != 1.0:
                yield "rope.scaling.attn_factor", settings.magnitude()

    def _expert_metadata(self) -> Iterator[tuple[str, Any]]:
        sizes, config = self.sizes, self.config
        yield "leading_dense_block_count", self._n_dense
        yield "expert_feed_forward_length", sizes["expert"]
        yield "expert_shared_count", config.integer("n_shared_experts", default=0, minimum=0)
        if not sizes["experts"]:
            return
        yield "expert_count", sizes["experts"]
        yield "expert_used_count", config.integer("num_experts_per_tok", maximum=sizes["experts"])
        for key, name in (("expert_group_count", "n_group"), ("expert_group_used_count", "topk_group")):
            if config.has(name):
                yield key, config.integer(name)
        default = "sigmoid" if "V3" in config.architecture or "v3" in config.architecture else "softmax"
        score = config.string("scoring_func", default=default)
        if score not in ("softmax", "sigmoid"):
            raise config.error("scoring_func", f"is {score!r}", "softmax, sigmoid")
        yield "expert_gating_func", SIGMOID if score == "sigmoid" else SOFTMAX
        yield "expert_weights_scale", config.number("routed_scaling_factor", default=1.0)
        if config.boolean("norm_topk_prob", default=False):
            if score == "softmax":
                warnings.warn(
                    "config.json asks for norm_topk_prob, which transformers leaves out in DeepSeek V2: so do files",
                    RuntimeWarning,
                    stacklevel=2,
                )
            else:
                yield "expert_weights_norm", True
