"""The random numbers of a request."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.sampling.rng import splitmix64, uniform


def test_published_sequence():
    """The first numbers for seed 1234567, as given with the reference implementation in C."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [splitmix64(1234567, i) for i in range(5)] == expected


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_uniform(seed):
    numbers = np.array([uniform(seed, i) for i in range(20000)])
    assert 0 <= numbers.min() < numbers.max() < 1
    counts = np.bincount((numbers * 20).astype(int), minlength=20)
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.82  # 99.9 % quantile, 19 degrees of freedom


def test_neighbouring_seeds_are_unrelated():
    first = np.array([uniform(1, i) for i in range(5000)])
    second = np.array([uniform(2, i) for i in range(5000)])
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
