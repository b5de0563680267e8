"""SmolLM3.

Hugging Face 2025. As Llama, but every fourth layer has no RoPE, nor anything else that tells positions (Yang et al.
2025, "RoPE to NoPE and Back Again").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densecore.gguf import GGUFFile
from densecore.kernels import rope
from densecore.models.base import Model
from densecore.models.step import Step
from densecore.models.weights import Linear, WeightLoader

__all__ = ["SmolLM3"]

NOPE_PERIOD = 4  # layers; usually no key tells it


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of a layer, named as in the file."""

    attn_norm: np.ndarray  # (dim,)
    attn_q: Linear  # (n_heads * head_dim, dim)
    attn_k: Linear  # (n_kv_heads * head_dim, dim)
    attn_v: Linear  # (n_kv_heads * head_dim, dim)
    attn_output: Linear  # (dim, n_heads * head_dim)
    ffn_norm: np.ndarray  # (dim,)
    ffn_gate: Linear  # (hidden_dim, dim)
    ffn_up: Linear  # (hidden_dim, dim)
    ffn_down: Linear  # (dim, hidden_dim)


class SmolLM3(Model):
    """See the module's text."""

    pairing = rope.ADJACENT

    def __init__(self, file: GGUFFile) -> None:
        super().__init__(file)
        key, n_layers = f"{self.config.architecture}.rope.layers", self.config.n_layers  # a key of DenseCore's own
        self.rotates = [(layer + 1) % NOPE_PERIOD != 0 for layer in range(n_layers)]
        if key in file.metadata:
            self.rotates = [bool(rotates) for rotates in file.metadata.array(key)]
            if len(self.rotates) != n_layers:
                raise file.metadata.error(key, f"has {len(self.rotates)} values", f"{n_layers}, one a layer")

    def load_layer(self, load: WeightLoader, prefix: str) -> Layer:
        c = self.config
        q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        return Layer(
            attn_norm=load.vector(f"{prefix}.attn_norm.weight", c.dim),
            attn_q=load.linear(f"{prefix}.attn_q", q_dim, c.dim),
            attn_k=load.linear(f"{prefix}.attn_k", kv_dim, c.dim),
            attn_v=load.linear(f"{prefix}.attn_v", kv_dim, c.dim),
            attn_output=load.linear(f"{prefix}.attn_output", c.dim, q_dim),
            ffn_norm=load.vector(f"{prefix}.ffn_norm.weight", c.dim),
            ffn_gate=load.linear(f"{prefix}.ffn_gate", c.hidden_dim, c.dim),
            ffn_up=load.linear(f"{prefix}.ffn_up", c.hidden_dim, c.dim),
            ffn_down=load.linear(f"{prefix}.ffn_down", c.dim, c.hidden_dim),
        )

    def layer(self, step: Step, x: np.ndarray, w: Layer) -> None:
        c = self.config
        step.hook("resid_pre", x)
        h = step.norm(x, w.attn_norm, self.epsilon)
        q, k, v = step.project(h, w.attn_q, w.attn_k, w.attn_v)
        q = q.reshape(-1, c.n_heads, c.head_dim)
        k = k.reshape(-1, c.n_kv_heads, c.head_dim)
        v = v.reshape(-1, c.n_kv_heads, c.head_dim)
        step.hook("q", q)
        step.hook("k", k)
        step.hook("v", v)
        if self.rotates[step.layer]:
            step.rope(q, self.pairing)
            step.rope(k, self.pairing)
        z = step.attention(q, k, v, self.attention_scale, self.windows[step.layer])  # (num_tokens, n_heads, head_dim)
        step.hook("z", z)
        (attn_out,) = step.project(z.reshape(len(x), -1), w.attn_output)  # (num_tokens, dim)
        step.hook("attn_out", attn_out)
        step.add(x, attn_out)
        step.hook("resid_mid", x)

        h = step.norm(x, w.ffn_norm, self.epsilon)
        gate, up = step.project(h, w.ffn_gate, w.ffn_up)  # (num_tokens, hidden_dim)
        (mlp_out,) = step.project(step.swiglu(gate, up), w.ffn_down)  # (num_tokens, dim)
        step.hook("mlp_out", mlp_out)
        step.add(x, mlp_out)
        step.hook("resid_post", x)
