"""Changes that rows name: how a tensor of a checkpoint becomes one of a GGUF file."""

from __future__ import annotations

from densecore.convert.lazy import LazyTensor
from densecore.convert.rules import Change, Rules

__all__ = ["one_more", "split_heads", "transposed"]


def split_heads(heads: str) -> Change:
    """Reorders the rows of each head for a RoPE that rotates neighbours.

    Checkpoints rotate element i of a head with element i + head_dim / 2; GGUF files of these architectures have the
    two beside each other. `heads` is ``q`` or ``kv``.
    """

    def change(rules: Rules, tensor: LazyTensor) -> LazyTensor:
        n_heads = rules.sizes["n_heads" if heads == "q" else "n_kv_heads"]
        half = tensor.shape[0] // n_heads // 2
        view = tensor.view.reshape(n_heads, 2, half, *tensor.shape[1:])
        return tensor.viewed(view.swapaxes(1, 2), shape=tensor.shape)

    return change


def one_more(rules: Rules, tensor: LazyTensor) -> LazyTensor:
    """For norms that multiply by 1 + weight."""
    return tensor.plus(1.0)


def transposed(rules: Rules, tensor: LazyTensor) -> LazyTensor:
    """For matrices stored as (..., n_in, n_out); vectors stay as they are."""
    if len(tensor.shape) < 2:
        return tensor
    *outer, n_in, n_out = tensor.shape
    return tensor.viewed(tensor.view.swapaxes(-1, -2), shape=(*outer, n_out, n_in))
