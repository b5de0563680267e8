"""Which parts remain: the most important ones, as many as were asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densecore.exceptions import InvalidConfigError
from densecore.prune.config import PruneConfig
from densecore.prune.importance import Importance
from densecore.prune.structure import DIM, HIDDEN, KV, Structure

__all__ = ["Kept", "select"]

MULTIPLE = 32  # of rows that remain, so that they can be quantized; 256 where there are many
_MANY = 2048


@dataclass(frozen=True)
class Kept:
    """Indices of what remains, ascending; None is everything."""

    layers: np.ndarray  # (n,)
    dims: np.ndarray | None  # (n,)
    channels: np.ndarray | None  # (n_layers, n), by layer of the original
    heads: np.ndarray | None  # (n_layers, n), key/value heads

    def along(self, axis: str | None, layer: int | None, s: Structure) -> np.ndarray | None:
        """Elements that remain along an axis of a tensor of `layer`; None is all."""
        if axis is None or (axis != DIM and layer is None):
            return None
        if axis == DIM:
            return self.dims
        if axis == HIDDEN:
            return None if self.channels is None else self.channels[layer]
        if self.heads is None:
            return None
        length = s.size(axis) // s.n_kv_heads  # elements of a key/value head, or of all queries that share it
        assert axis == KV or length == s.head_dim * (s.n_heads // s.n_kv_heads)
        return (self.heads[layer][:, None] * length + np.arange(length)).reshape(-1)


def select(structure: Structure, importance: Importance, config: PruneConfig) -> Kept:
    """What remains. InvalidConfigError for targets beyond what the model has."""
    s, combined = structure, config.strategy == "combined"
    # Combined, depth and the rest multiply, so that each leaves out less.
    ratio = 1 - (1 - config.ratio) ** 0.5 if combined else config.ratio
    layers = s.n_layers
    if config.strategy in ("depth", "combined"):
        layers = _count("target_n_layer", config.target_n_layer, s.n_layers, ratio)
    dims = channels = heads = None
    if config.strategy in ("width", "combined"):
        channels = _count("target_hidden_dim", config.target_hidden_dim, s.hidden_dim, ratio, _multiple(s.hidden_dim))
    if config.strategy == "width" or (combined and config.target_dim is not None):
        dims = _count("target_dim", config.target_dim, s.dim, ratio, _multiple(s.dim))
    if config.strategy == "attention" or (combined and (config.target_n_kv_head or ratio * s.n_kv_heads >= 1)):
        heads = _count("target_n_kv_head", config.target_n_kv_head, s.n_kv_heads, ratio)
    return Kept(
        _best(importance.layers, layers),
        None if dims is None else _best(importance.dims, dims),
        None if channels is None else np.array([_best(row, channels) for row in importance.channels]),
        None if heads is None else np.array([_best(row, heads) for row in importance.heads]),
    )


def _multiple(size: int) -> int:
    return 256 if size >= _MANY and size % 256 == 0 else MULTIPLE if size >= 2 * MULTIPLE else 1


def _count(name: str, target: int | None, size: int, ratio: float, multiple: int = 1) -> int:
    """How many of `size` remain: the target, or all but a part, in whole multiples, at least one less than all."""
    if target is not None:
        if target > size:
            raise InvalidConfigError(f"{name} is {target}, but the model has {size}; allowed: 1 to {size}")
        return target
    if size <= multiple:
        raise InvalidConfigError(f"the model has only {size} of what {name} counts: nothing can be left out")
    removed = max(int(ratio * size + 1e-9), 1)
    kept = -(-(size - removed) // multiple) * multiple
    return kept if kept < size else size - multiple


def _best(importance: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest, ascending; the earlier one of equal ones."""
    return np.sort(np.argsort(-importance, kind="stable")[:count])
