"""gpt-oss.

OpenAI 2025. Biases on all matrices; a sink for each head in the softmax of attention; layers with a sliding window
alternate with layers that see everything, beginning with a window; a mixture of experts with softmax over those that
are used, and a SwiGLU that is clamped. The published files hold the experts as MXFP4.

YaRN usually rounds the range of frequencies that it mixes to whole pairs. The published models were trained without it
(``truncate`` is false in their configuration), which no key of most files tells: they are known by their numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from densecore.gguf import GGUFFile
from densecore.kernels import gates, rope, routing
from densecore.models.base import Model
from densecore.models.config import ModelConfig, RopeConfig
from densecore.models.experts import ExpertConfig, ExpertLayer, feed_forward, load_expert_layer
from densecore.models.step import Step
from densecore.models.weights import Linear, WeightLoader

__all__ = ["GptOss"]


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of a layer, named as in the file."""

    attn_norm: np.ndarray  # (dim,)
    attn_q: Linear  # (n_heads * head_dim, dim)
    attn_k: Linear  # (n_kv_heads * head_dim, dim)
    attn_v: Linear  # (n_kv_heads * head_dim, dim)
    attn_sinks: np.ndarray  # (n_heads,)
    attn_output: Linear  # (dim, n_heads * head_dim)
    post_attention_norm: np.ndarray  # (dim,)
    experts: ExpertLayer


class GptOss(Model):
    """See the module's text."""

    pairing = rope.HALVES
    window_period = 2

    def __init__(self, file: GGUFFile) -> None:
        self.experts = ExpertConfig.read(file, gating=routing.CHOSEN_SOFTMAX)
        key = f"{file.metadata.string('general.architecture')}.attention.sliding_window"
        file.metadata.integer(key, minimum=1)  # it must be there
        super().__init__(file)

    @classmethod
    def read_config(cls, file: GGUFFile) -> ModelConfig:
        config = ModelConfig.read(file)
        rope_config = config.rope
        if f"{config.architecture}.rope.scaling.yarn_truncate" in file.metadata or not is_published(rope_config):
            return config
        return replace(config, rope=replace(rope_config, truncate=False))

    def load_layer(self, load: WeightLoader, prefix: str) -> Layer:
        c = self.config
        q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        return Layer(
            attn_norm=load.vector(f"{prefix}.attn_norm.weight", c.dim),
            attn_q=load.linear(f"{prefix}.attn_q", q_dim, c.dim),
            attn_k=load.linear(f"{prefix}.attn_k", kv_dim, c.dim),
            attn_v=load.linear(f"{prefix}.attn_v", kv_dim, c.dim),
            attn_sinks=load.vector(f"{prefix}.attn_sinks.weight", c.n_heads),
            attn_output=load.linear(f"{prefix}.attn_output", c.dim, q_dim),
            post_attention_norm=load.vector(f"{prefix}.post_attention_norm.weight", c.dim),
            experts=load_expert_layer(load, prefix, c.dim, self.experts),
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
        step.rope(q, self.pairing)
        step.rope(k, self.pairing)
        window = self.windows[step.layer]
        z = step.attention(q, k, v, self.attention_scale, window, sinks=w.attn_sinks)  # (num_tokens, n_heads, head_dim)
        step.hook("z", z)
        (attn_out,) = step.project(z.reshape(len(x), -1), w.attn_output)  # (num_tokens, dim)
        step.hook("attn_out", attn_out)
        step.add(x, attn_out)
        step.hook("resid_mid", x)

        h = step.norm(x, w.post_attention_norm, self.epsilon)
        mlp_out = feed_forward(step, h, w.experts, self.experts.rule, clamped_swiglu)  # (num_tokens, dim)
        step.hook("mlp_out", mlp_out)
        step.add(x, mlp_out)
        step.hook("resid_post", x)


def is_published(settings: RopeConfig) -> bool:
    """Whether these are the settings of gpt-oss-20b and 120b."""
    found = settings.scaling, settings.freq_base, settings.factor, settings.original_context
    return found == ("yarn", 150000.0, 32.0, 4096) and (settings.beta_fast, settings.beta_slow) == (32.0, 1.0)


def clamped_swiglu(step: Step, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """g sigmoid(1.702 g) (u + 1) of clamped gate and up, in the buffer of `gate`."""
    step.run(gates.clamped_swiglu, gate, up, gate)
    return gate
