"""Qwen3 with experts: Qwen3's attention, Qwen2's experts without the shared one, with weights that add up to 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.architectures.qwen2moe import EXPERTS, Qwen2Moe
from densecore.convert.architectures.qwen3 import HEAD_NORMS
from densecore.convert.decoder import NORMS, attention
from densecore.convert.windows import window_metadata

__all__ = ["Qwen3Moe"]


class Qwen3Moe(Qwen2Moe):
    """See the module's text."""

    architecture = "qwen3moe"
    classes = ("Qwen3MoeForCausalLM", "Qwen3MoeModel")
    model_types = ("qwen3_moe",)
    normalizes = True
    attention = (*NORMS, *HEAD_NORMS, *attention())
    experts = EXPERTS

    def windows(self) -> Iterator[tuple[str, Any]]:
        if self.config.boolean("use_sliding_window", default=False):
            window = self.config.integer("sliding_window", default=4096)
            yield from window_metadata(self, window, [True] * self.n_layers)
