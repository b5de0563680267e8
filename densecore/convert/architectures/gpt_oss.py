"""gpt-oss: experts in MXFP4, whose gate and up lie row by row in turn, biases everywhere, and attention sinks.

Checkpoints in MXFP4 keep their blocks, whatever the type of the file: nothing is rounded twice. Checkpoints in BF16
have the experts' matrices as (n_in, n_out).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from densecore.convert.decoder import Decoder, attention
from densecore.convert.lazy import LazyTensor
from densecore.convert.mxfp4 import BLOCK, packed
from densecore.convert.rope import RopeSettings
from densecore.convert.rules import Change, Row, Rules, linear, row
from densecore.convert.windows import local_layers, window_metadata

__all__ = ["GptOss"]

TRUNCATE = "rope.scaling.yarn_truncate"


def _turn(first: int, axis: int) -> Change:
    """Each second entry of an axis of matrices (n_experts, ...), from the entry `first`."""

    def change(rules: Rules, tensor: LazyTensor) -> LazyTensor:
        view = np.moveaxis(np.moveaxis(tensor.view, axis, 0)[first::2], 0, axis)
        return tensor.viewed(view, shape=view.shape)

    return change


def _transposed(first: int | None = None) -> Change:
    """(n_experts, n_in, n_out) as (n_experts, n_out, n_in), of which each second row from `first`."""

    def change(rules: Rules, tensor: LazyTensor) -> LazyTensor:
        view = tensor.view.swapaxes(1, 2)
        view = view if first is None else view[:, first::2]
        return tensor.viewed(view, shape=view.shape)

    return change


_EXPERTS = "layers.{}.mlp.experts."
_BIASES: tuple[Row, ...] = (
    Row("blk.{}.ffn_gate_exps.bias", _EXPERTS + "gate_up_proj_bias", "experts gate_up", _turn(0, 1)),
    Row("blk.{}.ffn_up_exps.bias", _EXPERTS + "gate_up_proj_bias", "experts gate_up", _turn(1, 1)),
    Row("blk.{}.ffn_down_exps.bias", _EXPERTS + "down_proj_bias", "experts dim"),
)
_PLAIN: tuple[Row, ...] = (
    Row("blk.{}.ffn_gate_exps.weight", _EXPERTS + "gate_up_proj", "experts dim gate_up", _transposed(0)),
    Row("blk.{}.ffn_up_exps.weight", _EXPERTS + "gate_up_proj", "experts dim gate_up", _transposed(1)),
    Row("blk.{}.ffn_down_exps.weight", _EXPERTS + "down_proj", "experts hidden dim", _transposed()),
)


class GptOss(Decoder):
    """See the module's text."""

    architecture = "gpt-oss"
    classes = ("GptOssForCausalLM",)
    model_types = ("gpt_oss",)
    block = (
        row("blk.{}.attn_norm", "layers.{}.input_layernorm", "dim"),
        row("blk.{}.post_attention_norm", "layers.{}.post_attention_layernorm", "dim"),
        *attention(),
        Row("blk.{}.attn_sinks.weight", "layers.{}.self_attn.sinks", "n_heads"),
        *linear("blk.{}.ffn_gate_inp", "layers.{}.mlp.router", "experts dim", bias="required"),
        *_BIASES,
    )

    def read_sizes(self) -> dict[str, int]:
        sizes = super().read_sizes()
        n_experts = self.config.integer("num_local_experts", "num_experts", maximum=4096)
        return sizes | {"experts": n_experts, "gate_up": 2 * sizes["hidden"]}

    @property
    def _is_packed(self) -> bool:
        return self.has("layers.0.mlp.experts.down_proj_blocks")

    def block_rows(self, layer: int) -> tuple[Row, ...]:
        return self.block if self._is_packed else (*self.block, *_PLAIN)

    def tensors(self) -> Iterator[tuple[str, LazyTensor]]:
        if self._is_packed:
            for layer in range(self.n_layers):
                yield from self._packed_experts(layer)
        yield from super().tensors()

    def _packed_experts(self, layer: int) -> Iterator[tuple[str, LazyTensor]]:
        sizes, prefix = self.sizes, f"layers.{layer}.mlp.experts."
        for name, n_out, n_in in (("gate_up_proj", "gate_up", "dim"), ("down_proj", "dim", "hidden")):
            shape = (sizes["experts"], sizes[n_out], sizes[n_in] // BLOCK)
            blocks = self.take(f"{prefix}{name}_blocks", (*shape, BLOCK // 2)).view
            scales = self.take(f"{prefix}{name}_scales", shape).view
            if name == "down_proj":
                yield f"blk.{layer}.ffn_down_exps.weight", packed(blocks, scales)
            else:
                yield f"blk.{layer}.ffn_gate_exps.weight", packed(blocks[:, 0::2], scales[:, 0::2])
                yield f"blk.{layer}.ffn_up_exps.weight", packed(blocks[:, 1::2], scales[:, 1::2])

    def allowed_dtypes(self, source: str) -> tuple[str, ...]:
        return ("U8",) if source.endswith(("_blocks", "_scales")) else super().allowed_dtypes(source)

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        self._check_gate()
        usual = [layer % 2 == 0 for layer in range(self.n_layers)]
        yield from window_metadata(self, self.config.integer("sliding_window"), local_layers(self, usual), usual)
        yield "expert_count", self.sizes["experts"]
        yield "expert_used_count", self.config.integer("num_experts_per_tok", "experts_per_token")
        yield "expert_feed_forward_length", self.sizes["hidden"]

    def rope_metadata(self) -> Iterator[tuple[str, Any]]:
        """Runtimes know of the published settings that YaRN does not truncate: a key says so of others alone."""
        published = self._has_published_rope()
        for key, value in super().rope_metadata():
            if not (published and key == TRUNCATE):
                yield key, value
        if published and RopeSettings(self.config).scaling.boolean("truncate", default=True):
            yield TRUNCATE, True

    def _has_published_rope(self) -> bool:
        settings = RopeSettings(self.config)
        if settings.kind != "yarn" or (settings.theta(), settings.factor()) != (150000.0, 32.0):
            return False
        betas = settings.scaling.number("beta_fast", default=32.0), settings.scaling.number("beta_slow", default=1.0)
        return settings.original_context() == 4096 and betas == (32.0, 1.0)

    def _check_gate(self) -> None:
        """No key says how SwiGLU is clamped."""
        for name, wanted in (("swiglu_limit", 7.0), ("swiglu_alpha", 1.702)):
            if (found := self.config.number(name, default=wanted)) != wanted:
                raise self.config.error(name, f"is {found:g}", f"{wanted:g}: GGUF files cannot express another")
