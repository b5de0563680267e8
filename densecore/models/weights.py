"""Weights of a model as they lie in the mapped file: nothing is copied but vectors.

`WeightLoader` hands out tensors by name, checks each one's shape and type, and in the end refuses a file with tensors
that the architecture does not use, because leaving them out would silently compute something else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile, TensorInfo
from densecore.kernels.formats import FORMATS, Format

__all__ = ["LayerNorm", "Linear", "WeightLoader"]


@dataclass(frozen=True, eq=False)
class Linear:
    """A weight matrix (n_out, n_in) in its format, and a bias where the file has one."""

    name: str  # as in the file, without ".weight"
    format: Format
    data: np.ndarray  # (n_out * row_bytes,) uint8, a view of the file
    n_out: int
    n_in: int
    bias: np.ndarray | None = None  # (1, n_out) float32
    whole: str = ""  # the matrix of the file that this one is a part of, if it is

    @property
    def role(self) -> str:
        """The last part of the name, such as ``attn_q``: the same in every layer."""
        return self.name.rsplit(".", 1)[-1]


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """Weight and bias of a LayerNorm, (n,) float32 each; zeros where the file has no bias."""

    weight: np.ndarray
    bias: np.ndarray


class WeightLoader:
    """Tensors of one file by name, each checked; see the module's text."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.linears: dict[str, Linear] = {}  # all matrices that were asked for
        self.grouped: set[str] = set()  # names of tensors with several matrices
        self.parts: dict[str, list[Linear]] = {}  # of those that `fused` took apart
        self._used: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self.file.tensors

    def linear(self, name: str, n_out: int, n_in: int, *, bias: bool | None = None) -> Linear:
        """The matrix `name`.weight and the vector `name`.bias: required (True), refused (False), or as found (None)."""
        info, fmt = self._tensor(f"{name}.weight", (n_in, n_out))
        data = self.file.tensor_data(info.name)
        vector = None
        if bias or (bias is None and self.has(f"{name}.bias")):
            vector = self.vector(f"{name}.bias", n_out).reshape(1, n_out)
        self.linears[name] = linear = Linear(name, fmt, data, n_out, n_in, vector)
        return linear

    def fused(self, name: str, n_in: int, **parts: int) -> list[Linear]:
        """Matrices that lie one below the other in the matrix `name`.weight: their names, and rows of each.

        So do their biases, where the file has them.
        """
        whole = self.linear(name, sum(parts.values()), n_in)
        prefix, row_bytes = name.rpartition(".")[0], whole.data.size // whole.n_out
        found, first = [], 0
        for part, n_out in parts.items():
            rows = slice(first, first + n_out)
            data = whole.data[rows.start * row_bytes : rows.stop * row_bytes]
            bias = None if whole.bias is None else np.ascontiguousarray(whole.bias[:, rows])
            found.append(Linear(f"{prefix}.{part}", whole.format, data, n_out, n_in, bias, name))
            first += n_out
        self.parts[name] = found
        return found

    def row(self, name: str, n: int) -> Linear:
        """The vector `name`.weight as a matrix of one row."""
        data = self.vector(f"{name}.weight", n).view(np.uint8)
        return Linear(name, FORMATS["F32"], data, 1, n)

    def matrices(self, name: str, n: int, n_out: int, n_in: int) -> tuple[Format, np.ndarray]:
        """The `n` matrices (n_out, n_in) in `name`.weight, one after the other: their format and bytes."""
        info, fmt = self._tensor(f"{name}.weight", (n_in, n_out, n))
        self.grouped.add(name)
        return fmt, self.file.tensor_data(info.name)

    def layer_norm(self, name: str, n: int, *, bias: bool = True) -> LayerNorm:
        """The vectors `name`.weight and, if there is to be one, `name`.bias."""
        return LayerNorm(
            self.vector(f"{name}.weight", n), self.vector(f"{name}.bias", n) if bias else np.zeros(n, np.float32)
        )

    def vector(self, name: str, n: int) -> np.ndarray:
        """A tensor of one dimension as float32 (n,), copied."""
        return self._floats(name, (n,))

    def vectors(self, name: str, count: int, n: int) -> np.ndarray:
        """A tensor of `count` vectors as float32 (count, n), copied."""
        return self._floats(name, (n, count)).reshape(count, n)

    def _floats(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        info, fmt = self._tensor(name, shape)
        if fmt.group:
            raise ModelLoadError(f"{self.file.path}: tensor {name} is {fmt.name}; a vector must be F32, F16 or BF16")
        blocks = self.file.tensor_data(info.name).reshape(-1, fmt.type_size)
        return fmt.dequantize_ref(blocks).reshape(-1)

    def refuse_unused(self) -> None:
        """ModelLoadError if the file holds tensors that were not asked for."""
        unused = [name for name in self.file.tensors if name not in self._used]
        if unused:
            arch = self.file.metadata.string("general.architecture")
            raise ModelLoadError(
                f"{self.file.path}: {len(unused)} tensors are not part of architecture {arch!r} as DenseCore knows it: "
                f"{', '.join(unused[:4])}{', ...' if len(unused) > 4 else ''}"
            )

    def _tensor(self, name: str, shape: tuple[int, ...]) -> tuple[TensorInfo, Format]:
        info = self.file.tensors.get(name)
        if info is None:
            raise ModelLoadError(f"{self.file.path}: tensor {name} of shape {shape} is missing")
        if info.shape != shape:
            raise ModelLoadError(f"{self.file.path}: tensor {name} has shape {info.shape}; expected {shape}")
        fmt = FORMATS.get(info.type.name)
        if fmt is None:
            raise ModelLoadError(
                f"{self.file.path}: tensor {name} is of type {info.type.name}, for which there is no kernel; "
                f"supported are {', '.join(sorted(FORMATS))}"
            )
        self._used.add(name)
        return info, fmt
