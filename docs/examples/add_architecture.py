"""Add an architecture: a Llama whose layers compute attention and feed-forward side by side, as GPT-J does.

    x = x + attention(norm(x)) + feed_forward(norm(x))

An architecture says which tensors a layer has and what it computes. This one inherits the former from Llama. Since no
file of it exists, the built-in model's tensors are written to one: a model that runs, if not one that makes sense.

python add_architecture.py
"""

import tempfile
from pathlib import Path

import numpy as np

from densecore import DenseCore
from densecore.data import builtin_model_path
from densecore.gguf import GGUFFile, GGUFWriter
from densecore.models import ARCHITECTURES
from densecore.models.llama import Layer, Llama
from densecore.models.step import Step


class ParallelLlama(Llama):
    """Wang & Komatsuzaki 2021: one norm a layer, whose output both halves read."""

    def layer(self, step: Step, x: np.ndarray, w: Layer) -> None:
        c = self.config
        step.hook("resid_pre", x)
        h = step.norm(x, w.attn_norm, self.epsilon)  # (num_tokens, dim)

        q, k, v = step.project(h, w.attn_q, w.attn_k, w.attn_v)
        q = q.reshape(-1, c.n_heads, c.head_dim)
        k, v = (each.reshape(-1, c.n_kv_heads, c.head_dim) for each in (k, v))
        step.rope(q, self.pairing)
        step.rope(k, self.pairing)
        z = step.attention(q, k, v, self.attention_scale)  # (num_tokens, n_heads, head_dim)
        (attn_out,) = step.project(z.reshape(len(x), -1), w.attn_output)  # (num_tokens, dim)
        step.hook("attn_out", attn_out)

        gate, up = step.project(h, w.ffn_gate, w.ffn_up)  # (num_tokens, hidden_dim)
        (mlp_out,) = step.project(step.swiglu(gate, up), w.ffn_down)  # (num_tokens, dim)
        step.hook("mlp_out", mlp_out)

        step.add(x, attn_out)
        step.add(x, mlp_out)
        step.hook("resid_post", x)


def rewrite(source: Path, target: Path, architecture: str) -> None:
    """Copy a GGUF file under the name of another architecture."""
    with GGUFFile.open(source) as file:
        writer = GGUFWriter(target)
        old = file.metadata.string("general.architecture")
        for key, value in file.metadata.items():
            writer.add_metadata(key.replace(f"{old}.", f"{architecture}.", 1), value)
        writer.add_metadata("general.architecture", architecture)
        for name, tensor in file.tensors.items():
            writer.add_tensor(name, file.tensor_data(name), tensor.type, tensor.shape)
        writer.write()


ARCHITECTURES["parallel-llama"] = ParallelLlama

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "parallel.gguf"
    rewrite(builtin_model_path(), path, "parallel-llama")
    with DenseCore(path) as model:
        print(repr(model.generate("import os", max_tokens=20, temperature=0)))

        # Is it what the formula says? The parts of a layer are the difference that the layer makes.
        seen: dict[str, np.ndarray] = {}
        model.forward(model.prompt_tokens("import os"), hooks={"blk.0.*": lambda v, name: seen.update({name[6:]: v})})
        difference = seen["resid_post"] - seen["resid_pre"] - seen["attn_out"] - seen["mlp_out"]
        print(f"largest difference to the formula: {np.abs(difference).max():.1e}")
