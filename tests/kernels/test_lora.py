"""Kernels of LoRA against their twins, on odd sizes, and their bits whatever the company."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.kernels.lora import Factors, expand, pick, shrink

RNG = np.random.default_rng(21)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


class Table:
    """Adapters of one matrix: those of rank 0 leave it as it is."""

    def __init__(self, ranks: list[int], n_in: int, n_out: int, *, embeds: bool = False) -> None:
        self.a = [normal(n_in, rank) if embeds else normal(rank, n_in) for rank in ranks]
        self.b = [normal(rank, n_out) for rank in ranks]
        addresses = [np.array([m.ctypes.data for m in matrices], np.int64) for matrices in (self.a, self.b)]
        self.factors = Factors(*addresses, np.array(ranks, np.int64), normal(len(ranks)))
        self.max_rank = max(ranks)

    def choose(self, num_tokens: int, num_places: int) -> tuple[np.ndarray, np.ndarray]:
        shape = num_tokens, num_places
        return RNG.integers(-1, len(self.a), shape).astype(np.int32), normal(*shape)


SIZES = [(1, 1, 1), (7, 3, 9), (8, 8, 64), (45, 77, 19), (64, 130, 8), (100, 33, 41)]


@pytest.mark.parametrize(("n_in", "n_out", "num_tokens"), SIZES)
@pytest.mark.parametrize("num_places", [1, 3])
def test_twins(n_in, n_out, num_tokens, num_places):
    table = Table([3, 8, 0, 5, 16], n_in, n_out)
    x, y = normal(num_tokens, n_in), normal(num_tokens, n_out)
    adapters, scales = table.choose(num_tokens, num_places)
    h = np.full((num_tokens, num_places, table.max_rank), np.nan, np.float32)
    twin_h, twin_y = h.copy(), y.copy()
    shrink(x, table.factors, adapters, scales, h)
    shrink.twin(x, table.factors, adapters, scales, twin_h)
    np.testing.assert_allclose(h, twin_h, rtol=1e-4, atol=1e-4)
    expand(h, table.factors, adapters, y)
    expand.twin(twin_h, table.factors, adapters, twin_y)
    np.testing.assert_allclose(y, twin_y, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("num_tokens", [1, 5, 30])
def test_pick(num_tokens):
    table = Table([4, 0, 7], 50, 12, embeds=True)
    ids = RNG.integers(0, 50, num_tokens).astype(np.int32)
    adapters, scales = table.choose(num_tokens, 2)
    h = np.full((num_tokens, 2, table.max_rank), np.nan, np.float32)
    twin = h.copy()
    pick(ids, table.factors, adapters, scales, h)
    pick.twin(ids, table.factors, adapters, scales, twin)
    assert np.array_equal(h, twin, equal_nan=True)


def test_against_numpy():
    table = Table([6], 40, 50)
    x, y, scales = normal(3, 40), normal(3, 50), np.array([[1.0], [0.0], [-2.0]], np.float32)
    adapters, h = np.array([[0], [-1], [0]], np.int32), np.empty((3, 1, 6), np.float32)
    before, multiplier = y.copy(), table.factors.multipliers[0]
    shrink(x, table.factors, adapters, scales, h)
    expand(h, table.factors, adapters, y)
    np.testing.assert_allclose(y, before + scales * multiplier * (x @ table.a[0].T @ table.b[0]), rtol=1e-4, atol=1e-4)
    assert np.array_equal(y[1], before[1])


def test_each_token_as_alone():
    table = Table([3, 9, 0, 16], 45, 77)
    x, y = normal(33, 45), normal(33, 77)
    adapters, scales = table.choose(33, 2)
    h, together = np.empty((33, 2, 16), np.float32), y.copy()
    shrink(x, table.factors, adapters, scales, h)
    expand(h, table.factors, adapters, together)
    for token in range(33):
        one = slice(token, token + 1)
        alone, its_h = y[one].copy(), np.empty((1, 2, 16), np.float32)
        shrink(x[one], table.factors, adapters[one], scales[one], its_h)
        expand(its_h, table.factors, adapters[one], alone)
        assert np.array_equal(alone, together[one])
