"""Jina Embeddings 2.

Guenther et al. 2023. BERT with ALiBi (Press et al. 2021) in the place of learned positions, which lets it read texts
longer than those that it was trained on, and a gated feed-forward part with GELU by erf. Some of its models have norms
of q and k, and a second norm after attention, before which the layer's input is added once more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densecore.gguf import GGUFFile
from densecore.models.encoder import Encoder, EncoderStep
from densecore.models.weights import LayerNorm, Linear, WeightLoader

__all__ = ["JinaBertV2", "alibi_slopes"]


def alibi_slopes(n_heads: int, max_bias: float) -> np.ndarray:
    """(n_heads,) float32: a geometric series down to 2^-max_bias, for the largest power of two of heads that there is.

    Further heads have every other member of the series for twice as many (Press et al. 2021, section 3).
    """
    power = 1 << (n_heads.bit_length() - 1)
    steps = [(head + 1) / power if head < power else (head - power + 0.5) / power for head in range(n_heads)]
    return (2.0 ** (-max_bias * np.array(steps))).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of a layer, named as in the file; the norms with None are in some models only."""

    attn_q: Linear  # (dim, dim)
    attn_k: Linear  # (dim, dim)
    attn_v: Linear  # (dim, dim)
    attn_q_norm: LayerNorm | None  # (dim,)
    attn_k_norm: LayerNorm | None  # (dim,)
    attn_output: Linear  # (dim, dim)
    attn_output_norm: LayerNorm  # (dim,)
    attn_norm_2: LayerNorm | None  # (dim,)
    ffn_gate: Linear  # (hidden_dim, dim)
    ffn_up: Linear  # (hidden_dim, dim)
    ffn_down: Linear  # (dim, hidden_dim)
    layer_output_norm: LayerNorm  # (dim,)


class JinaBertV2(Encoder):
    """See the module's text."""

    def __init__(self, file: GGUFFile) -> None:
        super().__init__(file)
        key = f"{self.config.architecture}.attention.max_alibi_bias"
        self.slopes = alibi_slopes(self.config.n_heads, file.metadata.number(key, 8.0, minimum=0.0, maximum=64.0))

    def load_layer(self, load: WeightLoader, prefix: str) -> Layer:
        c = self.config
        dim = c.n_heads * c.head_dim

        def optional_norm(name: str, size: int) -> LayerNorm | None:
            return load.layer_norm(f"{prefix}.{name}", size) if load.has(f"{prefix}.{name}.weight") else None

        if load.has(f"{prefix}.ffn_gate.weight"):
            gate = load.linear(f"{prefix}.ffn_gate", c.hidden_dim, c.dim)
            up = load.linear(f"{prefix}.ffn_up", c.hidden_dim, c.dim)
        else:  # one below the other
            gate, up = load.fused(f"{prefix}.ffn_up", c.dim, ffn_gate=c.hidden_dim, ffn_up=c.hidden_dim)
        return Layer(
            attn_q=load.linear(f"{prefix}.attn_q", dim, c.dim),
            attn_k=load.linear(f"{prefix}.attn_k", dim, c.dim),
            attn_v=load.linear(f"{prefix}.attn_v", dim, c.dim),
            attn_q_norm=optional_norm("attn_q_norm", dim),
            attn_k_norm=optional_norm("attn_k_norm", dim),
            attn_output=load.linear(f"{prefix}.attn_output", c.dim, dim),
            attn_output_norm=load.layer_norm(f"{prefix}.attn_output_norm", c.dim),
            attn_norm_2=optional_norm("attn_norm_2", c.dim),
            ffn_gate=gate,
            ffn_up=up,
            ffn_down=load.linear(f"{prefix}.ffn_down", c.dim, c.hidden_dim),
            layer_output_norm=load.layer_norm(f"{prefix}.layer_output_norm", c.dim),
        )

    def layer(self, step: EncoderStep, x: np.ndarray, w: Layer) -> None:
        c = self.config
        heads = (-1, c.n_heads, c.head_dim)
        step.hook("resid_pre", x)
        q, k, v = step.project(x, w.attn_q, w.attn_k, w.attn_v)  # (num_tokens, dim)
        for part, norm in ((q, w.attn_q_norm), (k, w.attn_k_norm)):
            if norm is not None:
                step.normalise(part, norm, self.epsilon)
        q, k, v = q.reshape(heads), k.reshape(heads), v.reshape(heads)
        step.hook("q", q)
        step.hook("k", k)
        step.hook("v", v)
        z = step.attend(q, k, v, self.attention_scale, self.slopes)  # (num_tokens, n_heads, head_dim)
        step.hook("z", z)
        (attn_out,) = step.project(z.reshape(len(x), -1), w.attn_output)  # (num_tokens, dim)
        step.hook("attn_out", attn_out)
        self.add_attention(step, x, attn_out, w)
        step.hook("resid_mid", x)

        gate, up = step.project(x, w.ffn_gate, w.ffn_up)  # (num_tokens, hidden_dim)
        (mlp_out,) = step.project(step.multiply_by(step.gelu_erf(gate), up), w.ffn_down)  # (num_tokens, dim)
        step.hook("mlp_out", mlp_out)
        step.add(x, mlp_out)
        step.normalise(x, w.layer_output_norm, self.epsilon)
        step.hook("resid_post", x)

    def add_attention(self, step: EncoderStep, x: np.ndarray, attn_out: np.ndarray, w: Layer) -> None:
        """x = norm(x + attn_out); where there is a second norm, that of the sum of this and x."""
        if w.attn_norm_2 is None:
            step.add(x, attn_out)
            step.normalise(x, w.attn_output_norm, self.epsilon)
            return
        step.add(attn_out, x)
        step.normalise(attn_out, w.attn_output_norm, self.epsilon)
        step.add(x, attn_out)
        step.normalise(x, w.attn_norm_2, self.epsilon)
