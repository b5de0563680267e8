"""Models in tests: open a file, run tokens through it, without an engine around it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from densecore.gguf import GGUFFile
from densecore.kernels.block_masses import block_masses
from densecore.kernels.peaks import block_peaks
from densecore.models import Batch, Hooks, KVCache, Model, Outputs, load_model

BLOCK_SIZE = 8


@contextmanager
def open_model(path: str | os.PathLike[str]):
    with GGUFFile.open(path) as file:
        yield load_model(file)


def load_and_close(path: str) -> None:
    """What the harness for broken files calls: open, check everything, let go."""
    with open_model(path):
        pass


def run(
    model: Model,
    token_ids: Sequence[int] | np.ndarray,
    *,
    kv: str = "f32",
    chunks: Sequence[int] | None = None,
    num_threads: int = 2,
    hooks: Mapping[str, Callable] | None = None,
) -> np.ndarray:
    """Logits (num_tokens, n_vocab) of every position, computed in pieces of these sizes."""
    ids = np.asarray(token_ids, np.int32)
    num_blocks = -(-ids.size // BLOCK_SIZE)
    cache = KVCache(model.config, num_blocks, BLOCK_SIZE, kv)
    checked = Hooks(hooks, model.config.n_layers, model.hooked_matrices) if hooks else None
    parts, first = [], 0
    for size in chunks or [ids.size]:
        batch = Batch.contiguous(ids[first : first + size], first, num_blocks, BLOCK_SIZE)
        scales = np.where(np.arange(size) % 3, np.float32(1.8), np.float32(0))
        batch = replace(batch.with_rope_set(model.rope_set(ids.size)), mass_scales=scales)
        outputs = model.outputs(batch, cache, num_threads, checked)
        check_peaks(outputs)
        check_masses(outputs, scales)
        parts.append(outputs.logits.copy())
        first += size
    assert first == ids.size
    return np.concatenate(parts)


def check_peaks(outputs: Outputs) -> None:
    """They belong to the logits, whatever an architecture, adapters or hooks do to these in the end."""
    peaks = np.empty_like(outputs.peaks)
    block_peaks.twin(outputs.logits, peaks)
    assert np.array_equal(outputs.peaks, peaks)


def check_masses(outputs: Outputs, scales: np.ndarray) -> None:
    """They have the same bits as those that are found afterwards."""
    masses = np.empty_like(outputs.masses)
    block_masses(outputs.logits, outputs.peaks, scales, masses)
    assert np.array_equal(outputs.masses[scales > 0], masses[scales > 0])


def nmse(got: np.ndarray, expected: np.ndarray) -> float:
    """Normalised mean square error."""
    difference = got.astype(np.float64) - expected
    return float((difference**2).sum() / (expected.astype(np.float64) ** 2).sum())


__all__ = ["check_masses", "check_peaks", "load_and_close", "nmse", "open_model", "run"]
