"""How much each part of a model matters, by its weights or by what it does on a text.

By weights: the mean of |w| (`magnitude`) or the root mean square (`l2_norm`) of all weights that belong to a part.

By activation, measured through hooks:

* layer: how much it turns the residual stream, 1 - cos(before, after), mean over tokens (Men et al. 2024, "ShortGPT");
* feed-forward channel: mean square of what it adds, that of its activation times the square of its column in ffn_down;
* key/value head: likewise, of the query heads that share it, through attn_output;
* channel of the residual stream: mean square of what the matrices read of it, after the norms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from densecore.gguf import GGUFFile
from densecore.kernels.formats import FORMATS
from densecore.prune.structure import AXES, DIM, HIDDEN, KV, Q, Structure, layer_of, role_of

__all__ = ["Importance", "measure", "of_weights", "random_importance"]


@dataclass
class Importance:
    """Figures of parts; only their order counts.

    Attributes
    ----------
    layers : (n_layers,)
    channels : (n_layers, hidden_dim), of feed-forward parts.
    heads : (n_layers, n_kv_heads)
    dims : (dim,), channels of the residual stream.
    norm_squares : for a norm's tensor, the mean squares (dim,) of what it normalises, where they were measured.
    """

    layers: np.ndarray
    channels: np.ndarray
    heads: np.ndarray
    dims: np.ndarray
    norm_squares: dict[str, np.ndarray] = field(default_factory=dict)


def _zeros(s: Structure) -> Importance:
    return Importance(
        np.zeros(s.n_layers),
        np.zeros((s.n_layers, s.hidden_dim)),
        np.zeros((s.n_layers, s.n_kv_heads)),
        np.zeros(s.dim),
    )


def random_importance(structure: Structure, seed: int) -> Importance:
    """Random figures: what a measure has to beat."""
    rng, s = np.random.default_rng(seed), structure
    return Importance(
        rng.random(s.n_layers),
        rng.random((s.n_layers, s.hidden_dim)),
        rng.random((s.n_layers, s.n_kv_heads)),
        rng.random(s.dim),
    )


def read_matrix(file: GGUFFile, name: str) -> np.ndarray:
    """A tensor as float32 (rows, row length)."""
    tensor = file.tensors[name]
    fmt = FORMATS[tensor.type.name]
    return fmt.dequantize_ref(file.tensor_data(name).reshape(-1, fmt.type_size)).reshape(-1, tensor.shape[0])


def of_weights(file: GGUFFile, structure: Structure, method: str) -> Importance:
    """By ``magnitude`` or ``l2_norm`` of the weights."""
    power = 1 if method == "magnitude" else 2
    result, counts = _zeros(structure), _zeros(structure)
    for name, tensor in file.tensors.items():
        if len(tensor.shape) < 2 or tensor.type.name not in FORMATS:
            continue
        values = np.abs(read_matrix(file, name)) ** power
        layer, axes = layer_of(name), AXES.get(role_of(name), (None, None))
        if layer is not None:
            result.layers[layer] += values.sum(dtype=np.float64)
            counts.layers[layer] += values.size
        for axis, kind in enumerate(axes if structure.hidden_dim else ()):
            sums = values.sum(axis, dtype=np.float64)  # axis 0 of the file is the last of numpy
            target = _target(result, kind, layer, structure)
            if target is not None:
                target += _per_part(sums, kind, structure)
                _target(counts, kind, layer, structure)[:] += values.size / len(target)
    for part in ("layers", "channels", "heads", "dims"):
        total = getattr(result, part)
        total[:] = (total / np.maximum(getattr(counts, part), 1)) ** (1 / power)
    return result


def _target(importance: Importance, kind: str | None, layer: int | None, s: Structure) -> Any:
    if kind == DIM:
        return importance.dims
    if layer is None or kind is None:
        return None
    return importance.channels[layer] if kind == HIDDEN else importance.heads[layer]


def _per_part(sums: np.ndarray, kind: str | None, s: Structure) -> np.ndarray:
    return sums.reshape(s.n_kv_heads, -1).sum(1) if kind in (Q, KV) else sums


def measure(
    file: GGUFFile,
    structure: Structure,
    forward: Callable[..., Any],
    chunks: list[list[int]],
    progress: Callable[[int, int], None] | None = None,
) -> Importance:
    """By activation on tokenized chunks of a text.

    forward : (token ids, hooks) -> anything, such as `DenseCore.forward`
    progress : called after each chunk with chunks done and chunks in all
    """
    notes = _Notes(structure)
    for done, chunk in enumerate(chunks, 1):
        forward(chunk, hooks=notes.hooks())
        if progress is not None:
            progress(done, len(chunks))
    return notes.importance(file)


class _Notes:
    """Sums over tokens of what hooks have seen."""

    def __init__(self, structure: Structure) -> None:
        self.structure, self.num_tokens = structure, 0
        self.turns = np.zeros(structure.n_layers)
        self.squares: dict[str, np.ndarray] = {}  # by name of the activation
        self.before: np.ndarray | None = None

    def hooks(self) -> dict[str, Callable[..., None]]:
        hooks: dict[str, Callable[..., None]] = {
            "blk.*.resid_pre": self.note_before,
            "blk.*.resid_post": self.note_turn,
        }
        if self.structure.hidden_dim:
            for point in ("attn_output.input", "ffn_down.input", "attn_q.input", "ffn_gate.input", "resid_mid"):
                hooks[f"blk.*.{point}"] = self.note_squares
            hooks["output.input"] = self.note_squares
        return hooks

    def note_before(self, value: np.ndarray, name: str) -> None:
        self.before = value
        self.note_squares(value, name)

    def note_turn(self, value: np.ndarray, name: str) -> None:
        before = self.before
        assert before is not None
        cosines = (before * value).sum(1) / np.maximum(
            np.linalg.norm(before, axis=1) * np.linalg.norm(value, axis=1), 1e-12
        )
        layer = int(name.split(".")[1])
        self.turns[layer] += (1 - cosines).sum()
        if layer == 0:
            self.num_tokens += len(value)
        self.note_squares(value, name)

    def note_squares(self, value: np.ndarray, name: str) -> None:
        squares = np.square(value, dtype=np.float64).sum(0)
        self.squares[name] = self.squares.get(name, 0) + squares

    def importance(self, file: GGUFFile) -> Importance:
        s, result = self.structure, _zeros(self.structure)
        result.layers[:] = self.turns / self.num_tokens
        if not s.hidden_dim:
            return result
        mean = {name: squares / self.num_tokens for name, squares in self.squares.items()}
        for layer in range(s.n_layers):
            prefix = f"blk.{layer}"
            down = np.square(read_matrix(file, f"{prefix}.ffn_down.weight"), dtype=np.float64).sum(0)
            result.channels[layer] = mean[f"{prefix}.ffn_down.input"] * down
            out = np.square(read_matrix(file, f"{prefix}.attn_output.weight"), dtype=np.float64).sum(0)
            result.heads[layer] = (mean[f"{prefix}.attn_output.input"] * out).reshape(s.n_kv_heads, -1).sum(1)
            for point in ("attn_q", "ffn_gate"):
                result.dims += mean[f"{prefix}.{point}.input"]
            result.norm_squares[f"{prefix}.attn_norm.weight"] = mean[f"{prefix}.resid_pre"]
            result.norm_squares[f"{prefix}.ffn_norm.weight"] = mean[f"{prefix}.resid_mid"]
        result.dims += mean["output.input"]
        result.norm_squares["output_norm.weight"] = mean[f"blk.{s.n_layers - 1}.resid_post"]
        return result
