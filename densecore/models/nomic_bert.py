"""Nomic Embed 1 and 1.5.

Nussbaum et al. 2024. BERT with RoPE in the place of learned positions, q, k and v in one matrix, SwiGLU, and no biases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densecore.gguf import GGUFFile
from densecore.kernels import rope
from densecore.models.encoder import Encoder, EncoderStep
from densecore.models.weights import LayerNorm, Linear, WeightLoader

__all__ = ["NomicBert"]


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of a layer, named as in the file, where ``attn_qkv`` holds the first three."""

    attn_q: Linear  # (dim, dim)
    attn_k: Linear  # (dim, dim)
    attn_v: Linear  # (dim, dim)
    attn_output: Linear  # (dim, dim)
    attn_output_norm: LayerNorm  # (dim,)
    ffn_gate: Linear  # (hidden_dim, dim)
    ffn_up: Linear  # (hidden_dim, dim)
    ffn_down: Linear  # (dim, hidden_dim)
    layer_output_norm: LayerNorm  # (dim,)


class NomicBert(Encoder):
    """See the module's text."""

    pairing = rope.HALVES

    def __init__(self, file: GGUFFile) -> None:
        super().__init__(file)
        self.frequencies, self.magnitude = rope.rope_frequencies(**vars(self.config.rope))

    def load_layer(self, load: WeightLoader, prefix: str) -> Layer:
        c = self.config
        dim = c.n_heads * c.head_dim
        q, k, v = load.fused(f"{prefix}.attn_qkv", c.dim, attn_q=dim, attn_k=dim, attn_v=dim)
        return Layer(
            attn_q=q,
            attn_k=k,
            attn_v=v,
            attn_output=load.linear(f"{prefix}.attn_output", c.dim, dim),
            attn_output_norm=load.layer_norm(f"{prefix}.attn_output_norm", c.dim),
            ffn_gate=load.linear(f"{prefix}.ffn_gate", c.hidden_dim, c.dim),
            ffn_up=load.linear(f"{prefix}.ffn_up", c.hidden_dim, c.dim),
            ffn_down=load.linear(f"{prefix}.ffn_down", c.dim, c.hidden_dim),
            layer_output_norm=load.layer_norm(f"{prefix}.layer_output_norm", c.dim),
        )

    def prepare(self, step: EncoderStep) -> None:
        step.prepare_rope(self.frequencies, self.magnitude)

    def layer(self, step: EncoderStep, x: np.ndarray, w: Layer) -> None:
        c = self.config
        heads = (-1, c.n_heads, c.head_dim)
        step.hook("resid_pre", x)
        q, k, v = (part.reshape(heads) for part in step.project(x, w.attn_q, w.attn_k, w.attn_v))
        step.hook("q", q)
        step.hook("k", k)
        step.hook("v", v)
        step.rope(q, self.pairing)
        step.rope(k, self.pairing)
        z = step.attend(q, k, v, self.attention_scale)  # (num_tokens, n_heads, head_dim)
        step.hook("z", z)
        (attn_out,) = step.project(z.reshape(len(x), -1), w.attn_output)  # (num_tokens, dim)
        step.hook("attn_out", attn_out)
        step.add(x, attn_out)
        step.normalise(x, w.attn_output_norm, self.epsilon)
        step.hook("resid_mid", x)

        gate, up = step.project(x, w.ffn_gate, w.ffn_up)  # (num_tokens, hidden_dim)
        (mlp_out,) = step.project(step.swiglu(gate, up), w.ffn_down)  # (num_tokens, dim)
        step.hook("mlp_out", mlp_out)
        step.add(x, mlp_out)
        step.normalise(x, w.layer_output_norm, self.epsilon)
        step.hook("resid_post", x)
