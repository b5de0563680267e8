"""Timed steps compute what they claim to: right tokens at right places."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from densecore import DenseCore
from densecore.benchmark import StepTimer
from densecore.config import EngineConfig
from densecore.data import builtin_model_path


@pytest.fixture
def timer() -> Iterator[StepTimer]:
    with StepTimer(builtin_model_path(), EngineConfig(threads=1, max_num_batched_tokens=16)) as timer:
        yield timer


def written(sequences) -> np.ndarray:
    """Which positions of each sequence hold keys: (num_sequences, positions)."""
    keys = sequences.cache.k[0].any(axis=(1, 2))  # (num_blocks, block_size)
    return keys.reshape(sequences.num_sequences, -1)


@pytest.mark.parametrize("depth", [0, 5, 40])
@pytest.mark.parametrize("num_sequences", [1, 3])
def test_decode_fills_the_positions_after_the_depth(timer: StepTimer, num_sequences: int, depth: int) -> None:
    sequences = timer.sequences(num_sequences, depth, room=8)
    assert written(sequences).sum(1).tolist() == [depth] * num_sequences
    before = sequences.cache.k[0].copy()
    for _ in range(2):
        assert sequences.decode(4) > 0
    positions = written(sequences)
    assert positions[:, : depth + 4].all()
    assert not positions[:, depth + 4 :].any()
    rows = np.moveaxis(sequences.cache.k[0], 3, 1).reshape(num_sequences, positions.shape[1], -1)
    old = np.moveaxis(before, 3, 1).reshape(rows.shape)
    np.testing.assert_array_equal(rows[:, :depth], old[:, :depth])


@pytest.mark.parametrize("num_tokens", [1, 16, 17, 40])
def test_prefill_fills_the_first_sequence(timer: StepTimer, num_tokens: int) -> None:
    sequences = timer.sequences(2, 0, room=40)
    assert sequences.prefill(num_tokens) > 0
    assert written(sequences).sum(1).tolist() == [num_tokens, 0]


def test_logits_are_the_models(timer: StepTimer) -> None:
    ids = np.array([3, 1, 4, 1, 5], np.int32)
    with DenseCore(str(builtin_model_path()), max_model_len=64) as model:
        np.testing.assert_array_equal(timer.logits(ids), model.forward(ids.tolist()))


def test_number_of_threads(timer: StepTimer) -> None:
    assert timer.num_threads == 1
    timer.set_threads(2)
    assert timer.num_threads == 2
