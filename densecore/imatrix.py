"""How much each column of a model's matrices matters: measured on a text, for quantization.

An error e in a weight changes the output of its matrix by e x, where x is what the column gets to multiply. Over many
tokens that costs e^2 times the mean of x^2: this mean is measured, through hooks, for every matrix of the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from densecore.perplexity import split_into_chunks
from densecore.quantize.imatrix_file import ImportanceMatrix

__all__ = ["measure_importance"]

_INPUT = ".input"


def measure_importance(
    forward: Callable[..., Any],
    token_ids: list[int],
    chunk_length: int,
    *,
    bos_id: int | None = None,
    dataset: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> ImportanceMatrix:
    """The importance matrix of a model over `token_ids`, a tokenized text.

    forward : (token ids, hooks) -> anything, such as `DenseCore.forward`
    chunk_length : tokens that are computed together; a rest that does not fill a chunk is left out
    bos_id : takes the place of the first token of each chunk, for a model that expects it; None changes nothing
    dataset : name of the text, which is noted
    progress : called after each chunk with chunks done and chunks in all

    Raises InvalidConfigError if the text does not fill one chunk.
    """
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}

    def note(value: np.ndarray, name: str) -> None:
        tensor = name.removesuffix(_INPUT) + ".weight"
        squares = np.square(value, dtype=np.float64).sum(0)  # (n_in,)
        sums[tensor] = sums[tensor] + squares if tensor in sums else squares
        counts[tensor] = counts.get(tensor, 0) + len(value)

    chunks = split_into_chunks(token_ids, chunk_length, bos_id)
    for done, chunk in enumerate(chunks, 1):
        forward(chunk, hooks={f"blk.*{_INPUT}": note})
        if progress is not None:
            progress(done, len(chunks))
    return ImportanceMatrix(
        {name: total.astype(np.float32)[None] for name, total in sums.items()},
        {name: np.array([counts[name]], np.float32) for name in sums},
        [dataset] if dataset else [],
        len(chunks),
        chunk_length,
    )
