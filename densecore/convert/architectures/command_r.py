"""Command-R: one LayerNorm without bias for attention and feed-forward, which run side by side, and scaled logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.decoder import GATED_MLP, Decoder, attention
from densecore.convert.rules import row

__all__ = ["CommandR"]


class CommandR(Decoder):
    """See the module's text. RoPE rotates neighbours in the checkpoint too, so nothing is reordered."""

    architecture = "command-r"
    classes = ("CohereForCausalLM", "CohereModel")
    model_types = ("cohere",)
    norm_key = "attention.layer_norm_epsilon"
    norm_names = ("layer_norm_eps",)
    block = (
        row("blk.{}.attn_norm", "layers.{}.input_layernorm", "dim"),
        *attention(),
        row("blk.{}.attn_q_norm", "layers.{}.self_attn.q_norm", "n_heads head", optional=True),
        row("blk.{}.attn_k_norm", "layers.{}.self_attn.k_norm", "n_kv_heads head", optional=True),
        *GATED_MLP,
    )

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield "rope.scaling.type", "none"  # unless the next ones say another
        for key, value in super().metadata():
            # Checkpoints were trained with longer contexts than their number of positions says.
            yield key, self.config.integer("model_max_length", default=value) if key == "context_length" else value
        yield "logit_scale", self.config.number("logit_scale")
