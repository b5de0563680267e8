"""Activations to int8: against the readable twin, and within half a step of the original."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from densecore.kernels.formats import Q8
from densecore.kernels.quantize import SUM_LENGTH, allocate_q8, quantize_q8, quantize_q8_ref

from .blocks import guarded

GROUPS = (32, 256)


def quantize(x: np.ndarray, group: int) -> Q8:
    out = allocate_q8(*x.shape, group)
    for part in out:
        part.view(np.uint8)[...] = 0xAA  # everything has to be written
    quantize_q8(x, out, group)
    return out


def assert_equal(a: Q8, b: Q8) -> None:
    for part, other in zip(a, b, strict=True):
        assert part.dtype == other.dtype
        np.testing.assert_array_equal(part, other)


def awkward(group: int) -> np.ndarray:
    """(rows, 2 * group): special values at the first, some middle and the last place of a group."""
    specials = [0, -0.0, 1e-45, 1e-38, 9e-37, 1.1e-36, 1e-30, 3.4028235e38, -3.4028235e38, np.inf, -np.inf, np.nan]
    x = np.random.default_rng(0).standard_normal((3 * len(specials) + 3, 2 * group)).astype(np.float32)
    for i, value in enumerate(specials):
        for j, place in enumerate((0, group // 2 + 3, group - 1)):
            x[3 * i + j, place] = value
    x[-3] = 0
    x[-2] *= np.float32(1e-38)
    x[-1] = np.nan
    return x


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("num_tokens", "num_groups"), [(1, 1), (2, 3), (5, 7)])
def test_quantize_equals_its_twin(group: int, num_tokens: int, num_groups: int) -> None:
    x = np.random.default_rng(1).standard_normal((num_tokens, num_groups * group)).astype(np.float32)
    assert_equal(quantize(x, group), quantize_q8_ref(x, group))


@pytest.mark.parametrize("group", GROUPS)
def test_quantize_equals_its_twin_for_awkward_values(group: int) -> None:
    x = awkward(group)
    q8 = quantize(x, group)
    assert_equal(q8, quantize_q8_ref(x, group))
    finite = np.isfinite(x).reshape(len(x), 2, group).all(2)
    np.testing.assert_array_equal(np.isnan(q8.d), ~finite)
    assert not q8.q.reshape(len(x), 2, group)[~finite].any()


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, (1, 64), elements=st.floats(width=32)), st.sampled_from([np.float32(1), 1e-20]))
def test_quantize_equals_its_twin_for_any_floats(x: np.ndarray, scale: float) -> None:
    x = (x * np.float32(scale)).astype(np.float32)
    assert_equal(quantize(x, 32), quantize_q8_ref(x, 32))


@pytest.mark.parametrize("group", GROUPS)
def test_values_are_within_half_a_step_and_sums_are_exact(group: int) -> None:
    x = np.random.default_rng(2).standard_normal((4, 3 * group)).astype(np.float32)
    q, d, sums = quantize(x, group)
    assert np.abs(q.astype(int)).reshape(4, 3, group).max(2).min() == 127
    step = np.repeat(d, group, axis=1)
    assert (np.abs(x - q * step) <= 0.5001 * step).all()
    np.testing.assert_array_equal(sums, q.reshape(4, -1, SUM_LENGTH).sum(2, dtype=int))


@pytest.mark.parametrize("at_end", [False, True], ids=["from-page-start", "to-page-end"])
def test_nothing_outside_is_touched(at_end: bool) -> None:
    x = np.random.default_rng(3).standard_normal((1, 96)).astype(np.float32)
    out = Q8(*(guarded(part, at_end=at_end) for part in allocate_q8(1, 96, 32)))
    quantize_q8(guarded(x, at_end=at_end), out, 32)
    assert_equal(out, quantize_q8_ref(x, 32))
