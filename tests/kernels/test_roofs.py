"""The loops that measure the machine really do what they count: their results are known."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from densecore.kernels import roofs
from densecore.kernels.simd_dots import HAS_DOT, LANES
from densecore.kernels.simd_types import HAS_TILES

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
    out = np.zeros(2, np.int64)
    roofs.multiply_bytes(np.int32(3), rounds, out)
    each = 4 * rounds if HAS_DOT else 0  # what every instruction adds
    expected = sum(LANES * (3 + chain + each) for chain in range(roofs.CHAINS))
    if HAS_TILES:  # 64 products of 3 by 3 in each sum
        expected = 64 * 9 * rounds * roofs.CHAINS
    assert out.tolist() == [expected] * 2


def test_chains_of_floats_reach_their_fixed_point() -> None:
    out = np.zeros(2)
    roofs.multiply_floats(np.float32(0.5), 100, out)  # x -> x / 2 + 1 / 2
    assert out.tolist() == [float(LANES * roofs.CHAINS)] * 2
