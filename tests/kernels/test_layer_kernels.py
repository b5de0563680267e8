"""Norm, activation and exp kernels against their twins, on odd sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from densecore.kernels import activation, norm
from densecore.kernels.cache import kernel
from densecore.kernels.exp import exp2_f32x8, exp_f32x8, tanh_f32x8, upper_tail_f32x8
from densecore.kernels.simd import load_f32x8, store_f32x8

RNG = np.random.default_rng(11)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@kernel
def exp_of(x, out):
    for k in range(0, x.size, 8):
        store_f32x8(out, k, exp_f32x8(load_f32x8(x, k)))


@kernel
def exp2_of(x, out):
    for k in range(0, x.size, 8):
        store_f32x8(out, k, exp2_f32x8(load_f32x8(x, k)))


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


def test_exp2():
    x = np.linspace(-126, 0, 80_000).astype(np.float32)
    out = np.empty_like(x)
    exp2_of(x, out)
    exact = np.exp2(x.astype(np.float64))
    assert (np.abs(out - exact) <= 3 * np.spacing(exact.astype(np.float32))).all()
    assert out[-1] == 1
    x = np.array([np.nan, -np.inf, -1e30, -127, -126, -0.0, -1, -2], np.float32)
    exp2_of(x, out[:8])
    assert np.isnan(out[0])
    assert np.array_equal(out[1:8], np.exp2(np.array([-126, -126, -126, -126, 0, -1, -2], np.float32)))


@kernel
def tanh_of(x, out):
    for k in range(0, x.size, 8):
        store_f32x8(out, k, tanh_f32x8(load_f32x8(x, k)))


def test_tanh_is_within_four_ulp():
    x = np.concatenate([np.linspace(-10, 10, 80_000), np.geomspace(1e-30, 1, 8_000)]).astype(np.float32)
    out = np.empty_like(x)
    tanh_of(x, out)
    exact = np.tanh(x.astype(np.float64))
    assert (np.abs(out - exact) <= 4 * np.spacing(np.abs(exact).astype(np.float32))).all()
    assert (np.abs(out) <= 1).all()
    x = np.array([np.nan, -np.nan, np.inf, -np.inf, 1e30, -1e30, 0, -0.0], np.float32)
    tanh_of(x, out[:8])
    assert np.isnan(out[:2]).all()
    assert out[2:8].tolist() == [1, -1, 1, -1, 0, 0]


@kernel
def upper_tail_of(x, out):
    for k in range(0, x.size, 8):
        store_f32x8(out, k, upper_tail_f32x8(load_f32x8(x, k)))


def test_the_tail_of_the_normal_distribution():
    x = np.linspace(0, 12.5, 8_000).astype(np.float32)
    out = np.empty_like(x)
    upper_tail_of(x, out)
    exact = np.array([math.erfc(a / math.sqrt(2)) / 2 for a in x.tolist()])
    assert (np.abs(out - exact) <= 5e-7 * exact * (1 + x**2)).all()
    x = np.array([np.nan, np.inf, 1e30, 14, 13, 0, 0, 0], np.float32)
    upper_tail_of(x, out[:8])
    assert np.isnan(out[0])
    assert (out[1:5] < 1e-37).all()
    assert np.allclose(out[5:8], 0.5, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 172])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("name", ["gelu", "gelu_erf"])
def test_gelu(name, rows, n):
    x = normal(rows, n) * 4
    expected = x.astype(np.float64)
    getattr(activation, f"{name}_ref")(expected)
    getattr(activation, name)(x)
    assert np.allclose(x, expected, rtol=5e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["gelu", "gelu_erf"])
def test_gelu_of_very_large_numbers(name):
    x = np.array([[1e30, -1e30, 30, -30, 0, np.nan, np.inf]], np.float32)
    getattr(activation, name)(x)
    assert np.allclose(x[0, :5], [1e30, 0, 30, 0, 0], rtol=1e-7, atol=1e-6)
    assert np.isnan(x[0, 5])
    assert x[0, 6] == np.inf


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 172])
@pytest.mark.parametrize("rows", [1, 5])
def test_gelu_caps_and_factors(rows, n):
    gate, up = normal(rows, n) * 4, normal(rows, n)
    out, expected = np.empty_like(gate), np.empty_like(gate)
    activation.geglu(gate, up, out)
    activation.geglu_ref(gate.astype(np.float64), up, expected)
    assert np.allclose(out, expected, rtol=1e-5, atol=1e-7)
    for operation, twin in ((activation.soft_cap, activation.soft_cap_ref), (activation.scale, activation.scale_ref)):
        out, expected = gate.copy(), gate.astype(np.float64)
        operation(out, np.float32(2.5))
        twin(expected, 2.5)
        assert np.allclose(out, expected, rtol=1e-6)


def test_gelu_of_large_numbers():
    gate = np.array([[1e4, -1e4, 30, -30, 0, np.nan]], np.float32)
    activation.geglu(gate, np.ones_like(gate), gate)
    assert np.allclose(gate[0, :5], [1e4, 0, 30, 0, 0], rtol=1e-7, atol=1e-30)
    assert np.isnan(gate[0, 5])


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


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 172])
@pytest.mark.parametrize("rows", [1, 5])
def test_layer_norm(rows, n):
    x, weight, bias = normal(rows, n) * 3 + 100, normal(n), normal(n)
    out, expected = np.empty_like(x), np.empty_like(x)
    norm.layer_norm(x, weight, bias, np.float32(1e-5), out)
    norm.layer_norm_ref(x, weight, bias, 1e-5, expected)
    assert np.allclose(out, expected, rtol=1e-4, atol=1e-4)
    norm.layer_norm(x, weight, bias, np.float32(1e-5), x)
    assert np.array_equal(x, out)


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


@pytest.mark.parametrize("rows", [1, 4], ids=["factors", "gate"])
def test_multiply(rows):
    x, y = normal(4, 11), normal(rows, 11)
    expected = x * y
    activation.multiply(x, y)
    assert np.array_equal(x, expected)


def test_scale_by_position():
    x, positions = normal(5, 11), np.array([0, 7, 8, 15, 1000], np.int32)
    expected = x * (1 + 0.5 * np.log([1, 1, 2, 2, 126]))[:, None]
    activation.scale_by_position(x, positions, 8, np.float32(0.5))
    assert np.allclose(x, expected, rtol=1e-6)
