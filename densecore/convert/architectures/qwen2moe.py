"""Qwen2 with experts: a router and its experts, and one expert that every token uses, scaled by a gate of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from densecore.convert.decoder import GATED_MLP, NORMS, Decoder, attention
from densecore.convert.lazy import LazyTensor
from densecore.convert.rules import Row, Rules, row
from densecore.convert.windows import left_out_elsewhere, local_layers, window_metadata

__all__ = ["EXPERTS", "Qwen2Moe"]

EXPERTS: tuple[Row, ...] = (
    row("blk.{}.ffn_gate_inp", "layers.{}.mlp.gate", "experts dim"),
    row("blk.{}.ffn_gate_exps", "layers.{}.mlp.experts.{expert}.gate_proj", "expert dim"),
    row("blk.{}.ffn_up_exps", "layers.{}.mlp.experts.{expert}.up_proj", "expert dim"),
    row("blk.{}.ffn_down_exps", "layers.{}.mlp.experts.{expert}.down_proj", "dim expert"),
)


def _as_vector(rules: Rules, tensor: LazyTensor) -> LazyTensor:
    """The only row of a matrix (1, n)."""
    return tensor.viewed(tensor.view[0], shape=tensor.shape[1:])


class Qwen2Moe(Decoder):
    """See the module's text."""

    architecture = "qwen2moe"
    classes: ClassVar[tuple[str, ...]] = ("Qwen2MoeForCausalLM", "Qwen2MoeModel")
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_moe",)
    normalizes: ClassVar[bool] = False  # whether the weights of the experts of a token add up to 1
    attention: ClassVar[tuple[Row, ...]] = (*NORMS, *attention())
    experts: ClassVar[tuple[Row, ...]] = (
        *EXPERTS,
        row("blk.{}.ffn_gate_inp_shexp", "layers.{}.mlp.shared_expert_gate", "1 dim", _as_vector),
        row("blk.{}.ffn_gate_shexp", "layers.{}.mlp.shared_expert.gate_proj", "shared dim"),
        row("blk.{}.ffn_up_shexp", "layers.{}.mlp.shared_expert.up_proj", "shared dim"),
        row("blk.{}.ffn_down_shexp", "layers.{}.mlp.shared_expert.down_proj", "dim shared"),
    )

    def read_sizes(self) -> dict[str, int]:
        config = self.config
        sizes = super().read_sizes()
        return sizes | {
            "experts": config.integer("num_experts", "num_local_experts", maximum=4096),
            "expert": config.integer("moe_intermediate_size"),
            "shared": config.integer("shared_expert_intermediate_size", default=sizes["hidden"]),
        }

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        yield from self.windows()
        config = self.config
        yield "expert_count", self.sizes["experts"]
        yield "expert_used_count", config.integer("num_experts_per_tok", maximum=self.sizes["experts"])
        yield "expert_feed_forward_length", self.sizes["expert"]
        if self.config.has("shared_expert_intermediate_size"):
            yield "expert_shared_feed_forward_length", self.sizes["shared"]

        if (normalizes := config.boolean("norm_topk_prob", default=self.normalizes)) is not self.normalizes:
            yield "expert_weights_norm", normalizes
            left_out_elsewhere(f"norm_topk_prob = {str(normalizes).lower()}")

    def windows(self) -> Iterator[tuple[str, Any]]:
        """No published model switches them on."""
        config = self.config
        if config.boolean("use_sliding_window", default=False):
            first = config.integer("max_window_layers", default=28, minimum=0)
            local = local_layers(self, [layer % 2 == 0 and layer < first for layer in range(self.n_layers)])
            yield from window_metadata(self, config.integer("sliding_window", default=4096), local)

    def block_rows(self, layer: int) -> tuple[Row, ...]:
        """Some layers may have no experts; other programs refuse such files."""
        every = self.config.integer("decoder_sparse_step", default=1)
        is_dense = (layer + 1) % every != 0 or layer in self.config.numbers("mlp_only_layers", default=[])
        return (*self.attention, *(GATED_MLP if is_dense else self.experts))
