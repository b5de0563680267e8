"""Norm, activation, exp and attention kernels against their twins, on odd sizes."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.kernels import activation, attention, norm
from densecore.kernels.cache import kernel
from densecore.kernels.exp import exp_f32x8
from densecore.kernels.simd import load_f32x8, store_f32x8

RNG = np.random.default_rng(11)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@kernel
def exp_of(x, out):
    for k in range(0, x.size, 8):
        store_f32x8(out, k, exp_f32x8(load_f32x8(x, k)))


def test_exp_is_within_two_ulp():
    x = np.linspace(-87, 88, 80_000).astype(np.float32)
    out = np.empty_like(x)
    exp_of(x, out)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(out - exact) <= 2 * np.spacing(exact.astype(np.float32))).all()


def test_exp_of_special_values():
    x = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e30, -1e30, 1], np.float32)
    out = np.empty_like(x)
    exp_of(x, out)
    assert np.isnan(out[0])
    assert out[1] == out[5] > 1e38
    assert 0 < out[2] == out[6] < 1e-37
    assert out[3] == out[4] == 1


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 172])
@pytest.mark.parametrize("rows", [1, 5])
def test_rms_norm(rows, n):
    x, weight = normal(rows, n) * 3, normal(n)
    out, expected = np.empty_like(x), np.empty_like(x)
    norm.rms_norm(x, weight, np.float32(1e-5), out)
    norm.rms_norm_ref(x, weight, 1e-5, expected)
    assert np.allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_rms_norm_in_place_and_of_zeros():
    x = normal(3, 20)
    x[1] = 0
    expected = np.empty_like(x)
    norm.rms_norm(x, np.ones(20, np.float32), np.float32(1e-6), expected)
    norm.rms_norm(x, np.ones(20, np.float32), np.float32(1e-6), x)
    assert np.array_equal(x, expected)
    assert not x[1].any()


@pytest.mark.parametrize("n", [1, 8, 13, 96])
def test_swiglu(n):
    gate, up = normal(3, n) * 20, normal(3, n)
    expected = np.empty_like(gate)
    activation.swiglu_ref(gate.astype(np.float64), up, expected)
    activation.swiglu(gate, up, gate)
    assert np.allclose(gate, expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("rows", [1, 4], ids=["bias", "residual"])
def test_add(rows):
    x, y = normal(4, 11), normal(rows, 11)
    expected = x + y
    activation.add(x, y)
    assert np.array_equal(x, expected)


class Paged:
    """Two sequences in a paged cache whose blocks are shuffled."""

    def __init__(self, dtype, head_dim, block_size=5, n_kv_heads=2, n_heads=6, lengths=(67, 33)):
        num_blocks = sum(-(-n // block_size) for n in lengths)
        width = attention.cache_width(head_dim)
        shape = (num_blocks, n_kv_heads, block_size, width)
        self.k_cache, self.v_cache = np.zeros(shape, dtype), np.zeros(shape, dtype)
        self.tables = np.zeros((2, num_blocks), np.int32)
        order = RNG.permutation(num_blocks)
        first = -(-lengths[0] // block_size)
        self.tables[0, :first], self.tables[1, : num_blocks - first] = order[:first], order[first:]
        self.seq_index = np.repeat(np.array([0, 1], np.int32), lengths)
        self.positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
        blocks = self.tables[self.seq_index, self.positions // block_size]
        self.slots = blocks * block_size + self.positions % block_size
        n = sum(lengths)
        self.q, self.k, self.v = (
            normal(n, n_heads, head_dim),
            normal(n, n_kv_heads, head_dim),
            normal(n, n_kv_heads, head_dim),
        )


@pytest.fixture(params=[np.uint16, np.float32], ids=["f16", "f32"])
def dtype(request):
    return request.param


@pytest.mark.parametrize("head_dim", [4, 8, 20, 64])
def test_store_kv(dtype, head_dim):
    paged = Paged(dtype, head_dim)
    expected = paged.k_cache.copy(), paged.v_cache.copy()
    attention.store_kv_ref(paged.k, paged.v, paged.slots, *expected)
    paged.k_cache[:], paged.v_cache[:] = 1, 1  # padding must be cleared where tokens are stored
    attention.store_kv(paged.k, paged.v, paged.slots, paged.k_cache, paged.v_cache)
    used = np.isin(np.arange(len(paged.k_cache) * 5), paged.slots).reshape(-1, 1, 5, 1)
    assert np.array_equal(np.where(used, paged.k_cache, 0), expected[0])
    assert np.array_equal(np.where(used, paged.v_cache, 0), expected[1])


@pytest.mark.parametrize("head_dim", [4, 8, 20, 64])
def test_attention(dtype, head_dim):
    paged = Paged(dtype, head_dim)
    attention.store_kv_ref(paged.k, paged.v, paged.slots, paged.k_cache, paged.v_cache)
    arguments = (paged.k_cache, paged.v_cache, paged.tables, paged.seq_index, paged.positions, np.float32(0.3))
    out, expected = np.empty_like(paged.q), np.empty_like(paged.q)
    attention.attention(paged.q, *arguments, out)
    attention.attention_ref(paged.q, *arguments, expected)
    assert np.allclose(out, expected, rtol=1e-4, atol=2e-6)


def test_attention_reads_nothing_behind_a_position(dtype):
    paged = Paged(dtype, 16)
    attention.store_kv_ref(paged.k, paged.v, paged.slots, paged.k_cache, paged.v_cache)
    arguments = (paged.tables, paged.seq_index[:1], np.array([40], np.int32), np.float32(0.3))
    out, again = np.empty_like(paged.q[:1]), np.empty_like(paged.q[:1])
    attention.attention(paged.q[:1], paged.k_cache, paged.v_cache, *arguments, out)
    later = paged.slots[(paged.seq_index == 1) | (paged.positions > 40)]
    poison = 0x7E00 if dtype is np.uint16 else np.nan  # NaN
    for cache in (paged.k_cache, paged.v_cache):
        cache[later // 5, :, later % 5] = poison
    attention.attention(paged.q[:1], paged.k_cache, paged.v_cache, *arguments, again)
    assert np.array_equal(out, again)
