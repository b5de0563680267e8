"""The tokens of one step: rows of logits, each with settings of its own, shared out among the workers of the pool.

A row is drawn by one worker from first to last, so that its token does not depend on which rows are beside it, or on
how many workers there are. What a row consists of lies in several places; `DRAW` is where they are, so that all
rows go into one call of compiled code, which holds no interpreter lock.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from .arguments import array_at
from .atomics import atomic_add
from .plan import operation
from .sampling import sample, sample_ref
from .sampling_types import NOTHING_KNOWN, Edits, Known, Settings, Workspace

__all__ = ["DRAW", "edit_addresses", "pack_draws", "pack_row", "pack_rows", "sample_rows"]

# An address, a number, or a setting each: the arguments of `sample`, but for its scratch.
DRAW = np.dtype(
    [
        *((name, np.int64) for name in ("logits", "peaks", "n_peaks", "masses", "n_masses")),
        *((name, np.int64) for name in ("ids", "bias", "counts", "n_edits")),
        *((name, np.int64 if name == "top_k" else np.float64) for name in Settings._fields),
        ("u", np.float64),
    ]
)


def edit_addresses(edits: Edits) -> tuple[int, int, int]:
    """Where the columns lie."""
    ids, bias, counts = (column.__array_interface__["data"][0] for column in edits)
    return ids, bias, counts


def pack_rows(packed: np.ndarray, places: np.ndarray, logits: np.ndarray, known: Known) -> None:
    """Fill in which rows an array of `DRAW` draws from: `places` (num_draws,) of logits (num_rows, n_vocab).

    known : of all rows, arrays (num_rows, num_blocks), or empty ones
    All rows must be contiguous, and stay where they are.
    """
    for name, array in (("logits", logits), *known._asdict().items()):
        packed[name] = array.__array_interface__["data"][0] + places * array.strides[0]
    packed["n_peaks"], packed["n_masses"] = known.peaks.shape[1], known.masses.shape[1]


def pack_row(packed: np.ndarray, i: int, row: np.ndarray) -> None:
    """Let number i of an array of `DRAW` draw from a row (n_vocab,) of its own."""
    packed["logits"][i] = row.__array_interface__["data"][0]
    packed["n_peaks"][i] = packed["n_masses"][i] = 0


def pack_draws(
    packed: np.ndarray,
    addresses: Sequence[tuple[int, int, int]],
    n_edits: Sequence[int],
    u: Sequence[float],
) -> None:
    """Fill in what changes from draw to draw. The columns at these addresses must stay where they are."""
    packed["ids"], packed["bias"], packed["counts"] = np.array(addresses, np.int64).T
    packed["n_edits"], packed["u"] = n_edits, u


def sample_rows_ref(
    draws: np.ndarray,
    n_vocab: int,
    work: Workspace,
    token_ids: np.ndarray,
    surprises: np.ndarray,
    taken: np.ndarray,
) -> None:
    """Twin of `sample_rows`."""
    scratch = Workspace(*(column[0] for column in work))
    for row, draw in enumerate(draws):
        n_edits = int(draw["n_edits"])
        columns = zip(("ids", "bias", "counts"), (np.int32, np.float64, np.int32), strict=True)
        edits = Edits(*(_array_at(draw[name], n_edits, dtype) for name, dtype in columns))
        settings = Settings(*(draw[name] for name in Settings._fields))
        logits = _array_at(draw["logits"], n_vocab, np.float32)
        token_ids[row] = sample_ref(logits, NOTHING_KNOWN, scratch, settings, edits, n_edits, draw["u"])
        surprises[row] = scratch.surprise[0]


def _array_at(address: int, size: int, dtype: type) -> np.ndarray:
    """Twin of `array_at`."""
    return np.frombuffer(ctypes.string_at(int(address), size * np.dtype(dtype).itemsize), dtype)


@operation(tasks=lambda draws, n_vocab, work, *_: min(draws.size, work.keys.shape[0]), twin=sample_rows_ref)
def sample_rows(draws, n_vocab, work, token_ids, surprises, taken, task, num_tasks):
    """token_ids (num_rows,) = what `sample` returns for each of draws (num_rows,) from `n_vocab` logits.

    surprises (num_rows,) float64 = the `surprise` that it leaves in its scratch.
    There is one piece for each Workspace in `work`: it takes one row after the other, until none is left. taken (1,)
    int64 counts the rows that are taken, and is 0 at first.
    """
    scratch = Workspace(
        work.keys[task],
        work.loaded[task],
        work.peaks[task],
        work.block_masses[task],
        work.totals[task],
        work.kept_totals[task],
        work.surprise[task],
        work.masses[task],
        work.candidates[task],
        work.weights[task],
        work.found_keys[task],
        work.found_ids[task],
        work.fractions[task],
        work.buckets[task],
        work.halvings[task],
        work.octave_masses[task],
    )
    row = atomic_add(taken, 0, 1)
    while row < draws.shape[0]:
        draw = draws[row]
        settings = Settings(
            draw.temperature,
            draw.top_k,
            draw.top_p,
            draw.min_p,
            draw.repetition_penalty,
            draw.presence_penalty,
            draw.frequency_penalty,
            draw.typical_p,
            draw.max_surprise,
        )
        edits = Edits(
            array_at(draw.ids, draw.n_edits, np.int32),
            array_at(draw.bias, draw.n_edits, np.float64),
            array_at(draw.counts, draw.n_edits, np.int32),
        )
        logits = array_at(draw.logits, n_vocab, np.float32)
        known = Known(
            array_at(draw.peaks, draw.n_peaks, np.int32),
            array_at(draw.masses, draw.n_masses, np.float32),
        )
        token_ids[row] = sample(logits, known, scratch, settings, edits, draw.n_edits, draw.u)
        surprises[row] = scratch.surprise[0]
        row = atomic_add(taken, 0, 1)
