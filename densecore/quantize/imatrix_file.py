"""Importance matrices: for each matrix of a model, the mean square of each element that it gets to multiply.

In a file they have the form of llama.cpp's ``llama-imatrix``: GGUF with ``general.type`` "imatrix" and, for each
matrix of the model, two tensors in F32:

* NAME.in_sum2 (row length, matrices in a stack): sums of squares over all tokens;
* NAME.counts (1, matrices in a stack): how many tokens these were.

Files of `densecore imatrix` have a third one in F16 for matrices that are not in stacks; llama.cpp does not read it:

* NAME.in_correlations (length, length, blocks of columns): sums of products of two columns in the same block, relative
  to the root of their sums of squares.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from densecore.exceptions import ModelLoadError
from densecore.gguf import GGMLType, GGUFFile, GGUFWriter, TensorInfo
from densecore.gguf.types import ValueType

__all__ = ["ImportanceMatrix"]

_SUMS, _COUNTS, _CORRELATIONS = ".in_sum2", ".counts", ".in_correlations"
BLOCK_LENGTHS = 256, 128, 64, 32


def block_length(row_length: int) -> int:
    """Columns in a block whose correlations are known; 0 if rows cannot be cut so."""
    return next((length for length in BLOCK_LENGTHS if row_length % length == 0), 0)


class _Correlations(Mapping[str, np.ndarray]):
    """Those of a file, each read when it is asked for: together they can be larger than memory."""

    def __init__(self, path: str, names: list[str]) -> None:
        self.path, self.names = path, names

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise KeyError(name)
        with GGUFFile.open(self.path) as file:
            return _read_correlations(file, name + _CORRELATIONS)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class ImportanceMatrix:
    """Sums of squares, counts, and maybe correlations, by name of the tensor, such as ``blk.0.attn_q.weight``."""

    sums: Mapping[str, np.ndarray]  # (n_matrices, row length) float32
    counts: Mapping[str, np.ndarray]  # (n_matrices,) float32
    datasets: list[str] = field(default_factory=list)
    num_chunks: int = 0
    chunk_size: int = 0
    path: str | os.PathLike[str] = "importance matrix"
    correlations: Mapping[str, np.ndarray] = field(default_factory=dict)  # (n_blocks, length, length) float16

    @property
    def names(self) -> list[str]:
        return list(self.sums)

    def of(self, tensor: TensorInfo, name: str = "") -> np.ndarray | None:
        """Mean squares (n_matrices, row length) float32 for `tensor`, here maybe called `name`; None if not measured.

        Of an expert that no token reached, all columns count alike. Raises ModelLoadError if the shapes differ.
        """
        name = name or tensor.name
        sums = self.sums.get(name)
        if sums is None:
            return None
        expected = (tensor.n_elements // (tensor.shape[0] * tensor.shape[1]), tensor.shape[0])
        if sums.shape != expected:
            raise ModelLoadError(
                f"{self.path}: {tensor.name} has importance of shape {sums.shape}, but the model's tensor needs "
                f"{expected}: it was measured with another model"
            )
        counts = self.counts[name][:, None]
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.float32(1)).astype(np.float32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file in llama.cpp's form. DenseCoreError if it cannot be written."""
        writer = GGUFWriter(path)
        writer.add_metadata("general.type", "imatrix")
        writer.add_metadata("imatrix.datasets", list(self.datasets), ValueType.STRING)
        writer.add_metadata("imatrix.chunk_count", self.num_chunks)
        writer.add_metadata("imatrix.chunk_size", self.chunk_size)
        for name, sums in self.sums.items():
            writer.add_tensor(name + _SUMS, sums.astype(np.float32))
            writer.add_tensor(name + _COUNTS, self.counts[name].astype(np.float32).reshape(-1, 1))
            if name in self.correlations:
                writer.add_tensor(name + _CORRELATIONS, self.correlations[name])
        writer.write()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ImportanceMatrix:
        """Read such a file. ModelLoadError if it is missing, broken or something else."""
        found = os.path.expanduser(os.fspath(path))
        with GGUFFile.open(found) as file:
            kind = file.metadata.string("general.type", "")
            names = [name.removesuffix(_SUMS) for name in file.tensors if name.endswith(_SUMS)]
            if kind != "imatrix" or not names:
                raise ModelLoadError(
                    f"{path}: not an importance matrix (general.type is {kind!r}); make one by densecore imatrix"
                )
            return cls(
                sums := {name: _read(file, name + _SUMS) for name in names},
                {name: _read_counts(file, name + _COUNTS, len(sums[name])) for name in names},
                file.metadata.strings("imatrix.datasets", []),
                file.metadata.integer("imatrix.chunk_count", 0, minimum=0),
                file.metadata.integer("imatrix.chunk_size", 0, minimum=0),
                path,
                _Correlations(found, [name for name in names if name + _CORRELATIONS in file.tensors]),
            )


def _read(file: GGUFFile, name: str) -> np.ndarray:
    """A tensor (rows, row length) float32; ModelLoadError if it is not there, of another type, or not sensible."""
    data, tensor = file.tensor_data(name), file.tensors[name]
    if tensor.type is not GGMLType.F32 or len(tensor.shape) > 2:
        raise ModelLoadError(f"{file.path}: tensor {name} is {tensor.type.name} of {tensor.shape}; expected F32 rows")
    values = np.array(data.view(np.float32).reshape(-1, tensor.shape[0]))
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ModelLoadError(f"{file.path}: tensor {name} has values that are not finite, or below 0: it is broken")
    return values


def _read_counts(file: GGUFFile, name: str, n_matrices: int) -> np.ndarray:
    values = _read(file, name).reshape(-1)
    if len(values) != n_matrices:
        raise ModelLoadError(f"{file.path}: tensor {name} has {len(values)} counts for {n_matrices} matrices")
    return values


def _read_correlations(file: GGUFFile, name: str) -> np.ndarray:
    """A tensor (n_blocks, length, length) float16; ModelLoadError if it is something else."""
    data, tensor = file.tensor_data(name), file.tensors[name]
    if tensor.type is not GGMLType.F16 or len(tensor.shape) not in (2, 3) or tensor.shape[0] != tensor.shape[1]:
        raise ModelLoadError(
            f"{file.path}: tensor {name} is {tensor.type.name} of {tensor.shape}; expected F16 squares"
        )
    values = np.array(data.view(np.float16).reshape(-1, tensor.shape[0], tensor.shape[0]))
    if not (np.abs(values) <= 1).all():  # nor NaN
        raise ModelLoadError(f"{file.path}: tensor {name} has values that are no correlations: it is broken")
    return values
