"""How much each column of a model's matrices matters, and which go together: measured on a text, for quantization.

An error e in a weight changes the output of its matrix by e x, where x is what the column gets to multiply. Over many
tokens that costs e^2 times the mean of x^2. Errors e and f in two columns with inputs x and y cost 2 e f times the mean
of x y besides, which may be negative: they can cancel. These means are measured, through hooks, for every matrix of the
layers and for the last one, ``output.weight``, whatever it is called in the file; those of products within blocks of
columns, and not for experts, of which there are too many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from densecore.kernels.moments import add_products
from densecore.perplexity import split_into_chunks
from densecore.quantize.imatrix_file import ImportanceMatrix, block_length

__all__ = ["measure_importance"]

_INPUT = ".input"


def measure_importance(
    forward: Callable[..., Any],
    token_ids: list[int],
    chunk_length: int,
    *,
    bos_id: int | None = None,
    dataset: str = "text",
    correlations: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> ImportanceMatrix:
    """The importance matrix of a model over `token_ids`, a tokenized text.

    forward : (token ids, hooks) -> anything, such as `DenseCore.forward`
    chunk_length : tokens that are computed together; a rest that does not fill a chunk is left out
    bos_id : takes the place of the first token of each chunk, for a model that expects it; None changes nothing
    dataset : name of the text, which is noted: llama.cpp takes no file without
    correlations : measure products of columns as well, which makes a far better model and a far larger file
    progress : called after each chunk with chunks done and chunks in all

    Raises InvalidConfigError if the text does not fill one chunk.
    """
    notes = _Notes(with_products=correlations)
    chunks = split_into_chunks(token_ids, chunk_length, bos_id)
    for done, chunk in enumerate(chunks, 1):
        forward(chunk, hooks={f"blk.*{_INPUT}": notes.note, f"output{_INPUT}": notes.note})
        if progress is not None:
            progress(done, len(chunks))
    return notes.matrix([dataset], len(chunks), chunk_length)


@dataclass
class _Sums:
    """What is known of a matrix's inputs so far; of several matrices in a stack, of each."""

    squares: np.ndarray  # (n_matrices, n_in) float64
    counts: np.ndarray  # (n_matrices,) how many inputs
    products: np.ndarray | None = None  # (n_blocks, length, length) float32

    @classmethod
    def of(cls, n_matrices: int, n_in: int, *, with_products: bool) -> _Sums:
        length = block_length(n_in)
        shape = (n_in // length, length, length) if length else (0, 0, 0)
        products = np.zeros(shape, np.float32) if with_products and length else None
        return cls(np.zeros((n_matrices, n_in)), np.zeros(n_matrices, np.int64), products)

    def add(self, rows: np.ndarray, matrix: int = 0) -> None:
        """Inputs (num_rows, n_in) of a matrix."""
        self.squares[matrix] += np.square(rows, dtype=np.float64).sum(0)
        self.counts[matrix] += len(rows)
        if self.products is not None:
            add_products(np.ascontiguousarray(rows, np.float32), self.products)

    @cached_property
    def correlations(self) -> np.ndarray:
        """Products relative to the squares, float16; those of a column without input are 0."""
        assert self.products is not None
        n_blocks, length, _ = self.products.shape
        norms = np.sqrt(self.squares.reshape(n_blocks, length))
        both = np.maximum(norms[:, :, None] * norms[:, None, :], 1e-30)
        upper = np.triu(np.clip(self.products / both, -1, 1), 1).astype(np.float16)
        return upper + upper.transpose(0, 2, 1) + np.eye(length, dtype=np.float16)


class _Notes:
    """Sums over tokens of what hooks have seen, by name of the tensor."""

    def __init__(self, *, with_products: bool) -> None:
        self.with_products = with_products
        self.sums: dict[str, _Sums] = {}
        self.experts: np.ndarray | None = None  # (num_tokens, n_experts), of the layer that is computed now
        self.last: tuple[np.ndarray, _Sums] | None = None  # what was seen just before
        self.shared: set[str] = set()  # tensors whose sums are those of another one

    def note(self, value: np.ndarray, name: str) -> None:
        """A hook on all inputs of the layers."""
        tensor = name.removesuffix(_INPUT) + ".weight"
        if name.endswith(".experts" + _INPUT):
            self.experts = value
        elif name.endswith("_exps" + _INPUT):
            self._note_experts(value, tensor)
        else:
            self._note_matrix(value, tensor)

    def _note_matrix(self, value: np.ndarray, tensor: str) -> None:
        """Queries, keys and values have the same inputs, as have gate and up: these are summed once."""
        if tensor not in self.sums and self.last is not None and np.array_equal(self.last[0], value):
            self.sums[tensor] = self.last[1]
            self.shared.add(tensor)
        elif tensor not in self.sums:
            self.sums[tensor] = _Sums.of(1, value.shape[1], with_products=self.with_products)
        if tensor not in self.shared:
            self.sums[tensor].add(value)
        self.last = value, self.sums[tensor]

    def _note_experts(self, value: np.ndarray, tensor: str) -> None:
        assert self.experts is not None
        n_experts = self.experts.shape[1]
        if tensor not in self.sums:
            self.sums[tensor] = _Sums.of(n_experts, value.shape[1], with_products=False)
        experts, tokens = np.nonzero(self.experts.T)  # sorted by expert, then by token
        rows = value if tensor.endswith("down_exps.weight") else value[tokens]
        for expert in np.unique(experts):
            self.sums[tensor].add(rows[experts == expert], expert)

    def matrix(self, datasets: list[str], num_chunks: int, chunk_length: int) -> ImportanceMatrix:
        sums = self.sums.items()
        return ImportanceMatrix(
            {name: found.squares.astype(np.float32) for name, found in sums},
            {name: found.counts.astype(np.float32) for name, found in sums},
            datasets,
            num_chunks,
            chunk_length,
            correlations={name: found.correlations for name, found in sums if found.products is not None},
        )
