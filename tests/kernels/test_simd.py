"""Every instruction and operator of `simd` against numpy, on random and on extreme values."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import pytest
from numba import njit

from densecore.kernels.formats.base import fma_ref
from densecore.kernels.simd import (
    abs_u8,
    as_f32,
    as_i32,
    bits_to_bytes,
    bytes_to_i16x8,
    concat_i16,
    concat_u8,
    f32x8,
    fma,
    fma_f32,
    i16x8,
    i16x16,
    i32x8,
    load_f32x8,
    load_i8x16,
    load_i8x32,
    load_i16x16,
    load_u8x16,
    load_u8x32,
    load_u32,
    lookup,
    madd,
    madd_i16x8,
    maddubs,
    max_f32x8,
    maximum,
    minimum,
    pair_sums,
    round_f32x8,
    sign,
    sum_f32x8,
    sum_i32x4,
    sum_i32x8,
    to_i32x8,
    widen_i8x16,
    widen_u8x16,
    with_lane,
)

NUM_CASES = 200


def mixed(rng: np.random.Generator, dtype: type, lanes: int, extremes: list[int]) -> np.ndarray:
    """(NUM_CASES, lanes): random values, and in every second case only extremes."""
    info = np.iinfo(dtype)
    values = rng.integers(info.min, info.max, (NUM_CASES, lanes), dtype, endpoint=True)
    values[::2] = rng.choice(np.array([info.min, info.max, *extremes], dtype), (NUM_CASES // 2, lanes))
    for row, value in enumerate([info.min, info.max, *extremes]):
        values[2 * row] = value
    return values


# ------------------------------------------------------------------------------------------------ integers

U8 = mixed(np.random.default_rng(0), np.uint8, 32, [0, 127, 128, 15])
I8 = mixed(np.random.default_rng(1), np.int8, 32, [0, -127, 1, -1])
I16 = mixed(np.random.default_rng(2), np.int16, 16, [0, -32767, 1, -1])
J16 = mixed(np.random.default_rng(3), np.int16, 16, [-1, -32768, 32767])


@njit
def put(vector, lanes, out):
    for lane in range(lanes):
        out[lane] = vector[lane]


@njit
def integer_instructions(u8, i8, i16, j16, out):
    for case in range(len(u8)):
        a, b, c, d = (
            load_u8x32(u8, 32 * case),
            load_i8x32(i8, 32 * case),
            load_i16x16(i16, 16 * case),
            load_i16x16(j16, 16 * case),
        )
        word, second = load_u32(u8, 32 * case), load_u32(u8, 32 * case + 5)
        narrow_u8, narrow_i8 = load_u8x16(u8, 32 * case + 16), load_i8x16(i8, 32 * case + 7)
        put(maddubs(a, b), 16, out[case, 0])
        put(madd(c, d), 8, out[case, 1])
        put(madd_i16x8(pair_sums(c), pair_sums(d)), 4, out[case, 2])
        put(sign(b, load_i8x32(i8, 31 * case)), 32, out[case, 3])
        put(abs_u8(b), 32, out[case, 4])
        put(lookup(narrow_i8, a & 15), 32, out[case, 5])
        put(concat_u8(narrow_u8, load_u8x16(u8, 32 * case)), 32, out[case, 6])
        put(concat_i16(pair_sums(c), pair_sums(d)), 16, out[case, 7])
        put(widen_i8x16(narrow_i8), 16, out[case, 8])
        put(widen_u8x16(narrow_u8), 16, out[case, 9])
        put(bits_to_bytes(word), 32, out[case, 10])
        put(bytes_to_i16x8(word, second), 8, out[case, 11])
        put(i16x8(i16[case, 0]), 8, out[case, 14])
        put(i16x16(i16[case, 0]), 16, out[case, 15])
        put(i32x8(i16[case, 0]), 8, out[case, 16])
        out[case, 12, 0] = sum_i32x8(madd(c, d))
        out[case, 13, 0] = sum_i32x4(madd_i16x8(pair_sums(c), pair_sums(d)))


@pytest.fixture(scope="module")
def integer_results() -> np.ndarray:
    """(NUM_CASES, instruction, lane)"""
    out = np.zeros((NUM_CASES, len(INTEGER_EXPECTED), 32), np.int64)
    integer_instructions(U8, I8, I16, J16, out)
    return out


def pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of neighbours added, exact."""
    products = a.astype(np.int64) * b
    return products[:, 0::2] + products[:, 1::2]


def pair_sums_of(a: np.ndarray) -> np.ndarray:
    return (a[:, 0::2].astype(np.int64) + a[:, 1::2]).astype(np.int16)


def windows(array: np.ndarray, step: int, first: int, lanes: int) -> np.ndarray:
    """(NUM_CASES, lanes): what a load at element step * case + first sees."""
    flat = array.reshape(-1)
    return np.array([flat[step * case + first :][:lanes] for case in range(NUM_CASES)])


SUM_PRODUCTS = pairs(pair_sums_of(I16), pair_sums_of(J16)).astype(np.int32)
NARROW_U8, NARROW_I8 = U8[:, 16:], I8[:, 7:23]
INTEGER_EXPECTED = {
    "maddubs": np.clip(pairs(U8, I8), -32768, 32767),
    "madd": pairs(I16, J16).astype(np.int32),
    "madd_i16x8": SUM_PRODUCTS,
    "sign": (I8 * np.sign(windows(I8, 31, 0, 32)).astype(np.int64)).astype(np.int8),
    "abs_u8": np.abs(I8.astype(np.int64)),
    "lookup": np.take_along_axis(NARROW_I8, U8 & 15, axis=1),
    "concat_u8": np.concatenate([NARROW_U8, U8[:, :16]], axis=1),
    "concat_i16": np.concatenate([pair_sums_of(I16), pair_sums_of(J16)], axis=1),
    "widen_i8x16": NARROW_I8,
    "widen_u8x16": NARROW_U8,
    "bits_to_bytes": np.unpackbits(U8[:, :4], axis=1, bitorder="little") * 255,
    "bytes_to_i16x8": np.concatenate([U8[:, :4], U8[:, 5:9]], axis=1),
    "sum_i32x8": pairs(I16, J16).astype(np.int32).sum(1, dtype=np.int32)[:, None],
    "sum_i32x4": SUM_PRODUCTS.sum(1, dtype=np.int32)[:, None],
    "i16x8": np.tile(I16[:, :1], (1, 8)),
    "i16x16": np.tile(I16[:, :1], (1, 16)),
    "i32x8": np.tile(I16[:, :1], (1, 8)),
}


@pytest.mark.parametrize("name", INTEGER_EXPECTED)
def test_integer_instruction(name: str, integer_results: np.ndarray) -> None:
    expected = INTEGER_EXPECTED[name]
    result = integer_results[:, list(INTEGER_EXPECTED).index(name), : expected.shape[1]]
    np.testing.assert_array_equal(result, expected)


# ------------------------------------------------------------------------------------------------ operators

OPERATORS = ("add", "sub", "mul", "and_", "or_", "xor", "lshift", "rshift")


def operator_kernel(load: Callable, lanes: int) -> Callable:
    """(a, b, scalar, shift, out): all operators with a vector and, from row 8 on, with a scalar."""

    @njit
    def kernel(a, b, scalar, shift, out):
        for case in range(len(a)):
            x, y, o = load(a, lanes * case), load(b, lanes * case), out[case]
            put(x + y, lanes, o[0])
            put(x - y, lanes, o[1])
            put(x * y, lanes, o[2])
            put(x & y, lanes, o[3])
            put(x | y, lanes, o[4])
            put(x ^ y, lanes, o[5])
            put(x << (y & 7), lanes, o[6])
            put(x >> (y & 7), lanes, o[7])
            put(x + scalar, lanes, o[8])
            put(x - scalar, lanes, o[9])
            put(x * scalar, lanes, o[10])
            put(x & scalar, lanes, o[11])
            put(x | scalar, lanes, o[12])
            put(x ^ scalar, lanes, o[13])
            put(x << shift, lanes, o[14])
            x >>= shift
            put(x, lanes, o[15])

    return kernel


@njit
def load_i32x8(array, offset):
    return as_i32(load_f32x8(array, offset))


LOADERS = {
    np.uint8: (load_u8x32, 32),
    np.int16: (load_i16x16, 16),
    np.int32: (load_i32x8, 8),
}


@pytest.mark.parametrize("dtype", LOADERS, ids=lambda dtype: np.dtype(dtype).name)
def test_integer_operators(dtype: type) -> None:
    load, lanes = LOADERS[dtype]
    a, b = (mixed(np.random.default_rng(seed), dtype, lanes, [0, 1]) for seed in (4, 5))
    out = np.zeros((NUM_CASES, 16, lanes), np.int64)
    scalar, shift = 77, 3
    operator_kernel(load, lanes)(a, b, scalar, shift, out)
    with np.errstate(over="ignore"):
        for i, name in enumerate(OPERATORS):
            is_shift = name.endswith("shift")
            apply = getattr(operator, name)
            np.testing.assert_array_equal(out[:, i], apply(a, b & dtype(7) if is_shift else b), err_msg=name)
            right = dtype(shift if is_shift else scalar)
            np.testing.assert_array_equal(out[:, 8 + i], apply(a, right), err_msg=f"{name} with a scalar")


# ------------------------------------------------------------------------------------------------ floats

SPECIAL = np.array([0, -0.0, 1, -1, 0.5, 1.5, 2.5, -2.5, 1e-45, 3e38, -3e38, np.inf, -np.inf, np.nan], np.float32)


def floats(seed: int) -> np.ndarray:
    """(NUM_CASES, 8) float32 of all sizes, specials in every second case."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((NUM_CASES, 8)) * 10.0 ** rng.integers(-6, 6, (NUM_CASES, 8))).astype(np.float32)
    x[::2] = rng.choice(SPECIAL, (NUM_CASES // 2, 8))
    return x


X, Y, Z = floats(0), floats(1), floats(2)
SCALAR = np.float32(0.1)


@njit
def float_instructions(x, y, z, scalar, out):
    for case in range(len(x)):
        a, b, c, o = load_f32x8(x, 8 * case), load_f32x8(y, 8 * case), load_f32x8(z, 8 * case), out[case]
        put(a + b, 8, o[0])
        put(a - b, 8, o[1])
        put(a * b, 8, o[2])
        put(a / b, 8, o[3])
        put(a * scalar, 8, o[4])
        put(fma(a, b, c), 8, o[5])
        put(maximum(a, b), 8, o[6])
        put(minimum(a, b), 8, o[7])
        put(round_f32x8(a), 8, o[8])
        put(as_f32(as_i32(a) & 0x7FFFFFFF), 8, o[9])
        put(to_i32x8(as_f32(as_i32(a) & 0x0EFFFFFF | 0x40000000)), 8, o[10])
        o[11, 0] = sum_f32x8(a)
        for lane in range(8):
            o[12, lane] = fma_f32(a[lane], b[lane], c[lane])
        put(with_lane(a, case % 8, scalar), 8, o[13])
        o[14, 0] = max_f32x8(a)
        put(f32x8(scalar), 8, o[15])


def fma_lanes(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.array([fma_ref(*lane) for lane in zip(x.flat, y.flat, z.flat, strict=True)]).reshape(x.shape)


def tree_sum(x: np.ndarray) -> np.ndarray:
    four = x[:, :4] + x[:, 4:]
    two = four[:, :2] + four[:, 2:]
    return two[:, :1] + two[:, 1:]


def with_scalar_lane(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[np.arange(NUM_CASES), np.arange(NUM_CASES) % 8] = SCALAR
    return x


def truncatable(x: np.ndarray) -> np.ndarray:
    """Floats from 2 to below 2**31, made of the bits of x."""
    return (x.view(np.int32) & 0x0EFFFFFF | 0x40000000).view(np.float32)


with np.errstate(all="ignore"):
    FLOAT_EXPECTED = {
        "add": X + Y,
        "sub": X - Y,
        "mul": X * Y,
        "div": X / Y,
        "mul_scalar": X * SCALAR,
        "fma": fma_lanes(X, Y, Z),
        "maximum": np.where(X > Y, X, Y),
        "minimum": np.where(X < Y, X, Y),
        "round_f32x8": np.rint(X),
        "as_f32": np.abs(X),
        "to_i32x8": truncatable(X).astype(np.int64),
        "sum_f32x8": tree_sum(X),
        "fma_f32": fma_lanes(X, Y, Z),
        "with_lane": with_scalar_lane(X),
        "max_f32x8": X.max(1, keepdims=True),
        "f32x8": np.full_like(X, SCALAR),
    }


@pytest.fixture(scope="module")
def float_results() -> np.ndarray:
    """(NUM_CASES, instruction, lane)"""
    out = np.zeros((NUM_CASES, len(FLOAT_EXPECTED), 8), np.float64)
    float_instructions(X, Y, Z, SCALAR, out)
    return out


@pytest.mark.parametrize("name", FLOAT_EXPECTED)
def test_float_instruction(name: str, float_results: np.ndarray) -> None:
    expected = FLOAT_EXPECTED[name].astype(np.float64)
    result = float_results[:, list(FLOAT_EXPECTED).index(name), : expected.shape[1]]
    if name == "max_f32x8":  # not defined where a lane is NaN
        defined = ~np.isnan(X).any(1)
        result, expected = result[defined], expected[defined]
    np.testing.assert_array_equal(result, expected)
    zeros = expected == 0
    if name != "max_f32x8":  # which of -0 and 0 is larger is not defined
        np.testing.assert_array_equal(np.signbit(result[zeros]), np.signbit(expected[zeros]))
