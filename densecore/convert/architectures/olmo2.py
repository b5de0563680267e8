"""OLMo 2 and OLMo 3: norms after attention and feed-forward, and over all of q and k; OLMo 3 has local layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.decoder import GATED_MLP, Decoder, attention
from densecore.convert.rules import row

__all__ = ["Olmo2"]


class Olmo2(Decoder):
    """See the module's text."""

    architecture = "olmo2"
    classes = ("Olmo2ForCausalLM", "Olmo3ForCausalLM", "Olmo2Model", "Olmo3Model")
    model_types = ("olmo2", "olmo3")
    block = (
        *attention(),
        row("blk.{}.attn_q_norm", "layers.{}.self_attn.q_norm", "q"),
        row("blk.{}.attn_k_norm", "layers.{}.self_attn.k_norm", "kv"),
        row("blk.{}.post_attention_norm", "layers.{}.post_attention_layernorm", "dim"),
        *GATED_MLP,
        row("blk.{}.post_ffw_norm", "layers.{}.post_feedforward_layernorm", "dim"),
    )

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        if not self.config.has("sliding_window"):
            return
        yield "attention.sliding_window", self.config.integer("sliding_window")
        kinds = self.config.strings("layer_types", default=None)
        if kinds is None:
            local = [(layer + 1) % 4 != 0 for layer in range(self.n_layers)]
        else:
            local = [kind == "sliding_attention" for kind in kinds]
        yield "attention.sliding_window_pattern", local
