"""The loops that measure the machine really do what they count: their results are known."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from densecore.kernels import roofs

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="vectors live in compiled code")


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_every_byte_is_read(num_tasks: int) -> None:
    size = 3 * 4 * roofs.READ_STEP
    piece = size // num_tasks
    for place in (0, 33, 64, 127, piece - 1):
        data, out = np.zeros(size, np.uint8), np.zeros(num_tasks, np.int64)
        data[:size:piece] = 0
        data[place] = 4
        data[place % 32] |= 1  # results are weighted with the first 32 bytes
        roofs.read_all(data, out)
        lane = int(data[place::32][: (piece - place + 31) // 32].max() | data[place % 32])
        assert out.tolist() == [lane * int(data[place % 32])] + [0] * (num_tasks - 1)


def test_memory_is_written() -> None:
    data = np.ones(1001, np.uint8)
    roofs.fill(data, np.zeros(3, np.int64))
    assert not data.any()


@pytest.mark.parametrize("rounds", [1, 2, 1000])
def test_chains_of_bytes(rounds: int) -> None:
    data = np.zeros(64, np.uint8)
    data[:32:2] = 1  # each even byte survives a multiplication, each odd one becomes 0
    out = np.zeros(2, np.int64)
    roofs.multiply_bytes(data, rounds, out)
    windows = np.bitwise_or.reduce([data[k : k + 32] for k in range(roofs.CHAINS)])
    assert out.tolist() == [int(windows[::2].sum())] * 2


def test_chains_of_floats_reach_their_fixed_point() -> None:
    out = np.zeros(2)
    roofs.multiply_floats(np.float32(0.5), 100, out)  # x -> x / 2 + 1 / 2
    assert out.tolist() == [8.0 * roofs.CHAINS] * 2
