"""What the parts of a model are, and in which axes of which tensors they lie."""

from __future__ import annotations

import re
from dataclasses import dataclass

from densecore.exceptions import InvalidConfigError
from densecore.gguf import GGUFFile

__all__ = ["AXES", "Structure", "layer_of", "role_of"]

DIM, HIDDEN, Q, KV = (
    "dim",
    "hidden",
    "q",
    "kv",
)  # residual channels, feed-forward channels, query heads, key/value heads

# Role of a tensor -> what its axes count, from axis 0 (within a row) on; None is never cut.
AXES: dict[str, tuple[str | None, ...]] = {
    "token_embd.weight": (DIM, None),
    "output.weight": (DIM, None),
    "output_norm.weight": (DIM,),
    "rope_freqs.weight": (None,),
    "attn_norm.weight": (DIM,),
    "ffn_norm.weight": (DIM,),
    "attn_q_norm.weight": (None,),
    "attn_k_norm.weight": (None,),
    "attn_q.weight": (DIM, Q),
    "attn_q.bias": (Q,),
    "attn_k.weight": (DIM, KV),
    "attn_k.bias": (KV,),
    "attn_v.weight": (DIM, KV),
    "attn_v.bias": (KV,),
    "attn_output.weight": (Q, DIM),
    "attn_output.bias": (DIM,),
    "ffn_gate.weight": (DIM, HIDDEN),
    "ffn_gate.bias": (HIDDEN,),
    "ffn_up.weight": (DIM, HIDDEN),
    "ffn_up.bias": (HIDDEN,),
    "ffn_down.weight": (HIDDEN, DIM),
    "ffn_down.bias": (DIM,),
}
# Whose layers take turns by their number, such as windows of attention: leaving one out would shift all others.
_ALTERNATING = ("gemma2", "gemma3", "gemma3n", "cohere2", "gpt-oss")


@dataclass(frozen=True)
class Structure:
    """The dimensions of a model that can be pruned."""

    architecture: str
    n_layers: int
    dim: int
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    head_dim: int

    @classmethod
    def read(cls, file: GGUFFile, *, whole_layers: bool) -> Structure:
        """Of a file. `whole_layers`: nothing but whole layers is to be left out.

        InvalidConfigError if the architecture cannot be pruned that way, ModelLoadError if the metadata is broken.
        """
        metadata = file.metadata
        arch = metadata.string("general.architecture")
        if whole_layers and arch in _ALTERNATING:
            raise InvalidConfigError(f"{file.path}: layers of {arch} take turns by their number: none can be left out")
        unknown = [name for name in file.tensors if role_of(name) not in AXES]
        if unknown and not whole_layers:
            raise InvalidConfigError(
                f"{file.path}: only the depth of this model can be pruned, as it has parts that are not those of a "
                f"plain Llama or Qwen, such as {unknown[0]}"
            )
        dim = metadata.integer(f"{arch}.embedding_length", minimum=1)
        n_layers = metadata.integer(f"{arch}.block_count", minimum=1)
        if whole_layers:
            return cls(arch, n_layers, dim, 0, 0, 0, 0)
        n_heads = metadata.integer(f"{arch}.attention.head_count", minimum=1)
        n_kv_heads = metadata.integer(f"{arch}.attention.head_count_kv", n_heads, minimum=1)
        head_dim = metadata.integer(f"{arch}.attention.key_length", dim // n_heads, minimum=1)
        hidden_dim = metadata.integer(f"{arch}.feed_forward_length", minimum=1)
        structure = cls(arch, n_layers, dim, hidden_dim, n_heads, n_kv_heads, head_dim)
        structure.check(file)
        return structure

    def size(self, axis: str) -> int:
        """Elements along an axis of this kind."""
        heads = {Q: self.n_heads * self.head_dim, KV: self.n_kv_heads * self.head_dim}
        return {DIM: self.dim, HIDDEN: self.hidden_dim, **heads}[axis]

    def check(self, file: GGUFFile) -> None:
        """ModelLoadError unless tensors have the shapes that the metadata tells."""
        for tensor in file.tensors.values():
            for axis, size in zip(AXES[role_of(tensor.name)], tensor.shape, strict=False):
                if axis is not None and size != self.size(axis):
                    problem = f"does not fit tensor {tensor.name} of shape {tensor.shape}"
                    raise file.metadata.error(f"{self.architecture}.*", problem, f"{axis} = {self.size(axis)} there")


def layer_of(name: str) -> int | None:
    """The layer that the tensor `name` belongs to."""
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else None


def role_of(name: str) -> str:
    """The name without the layer."""
    return re.sub(r"^blk\.\d+\.", "", name)
