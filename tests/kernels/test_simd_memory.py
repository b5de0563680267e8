"""Loads and stores of `simd`: conversions, alignment, bounds, and what misuse is answered with."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from densecore.kernels.simd import (
    f32x8,
    i16x16,
    i32x8,
    load_bf16,
    load_bf16x8,
    load_f16,
    load_f16x8,
    load_f32,
    load_f32x8,
    load_i8,
    load_i8x32,
    load_i16,
    load_u8,
    load_u8x32,
    load_u16,
    load_u32,
    maddubs,
    store_f16x8,
    store_f32,
    store_f32x8,
    store_i8x8,
    to_i32x8,
)


@njit
def read_scalars(array, offset):
    bytes_ = load_u8(array, offset), load_i8(array, offset)
    words = load_u16(array, offset), load_i16(array, offset), load_u32(array, offset)
    return *bytes_, *words, load_f32(array, offset)


def test_scalars_at_any_alignment_of_read_only_memory() -> None:
    data = np.random.default_rng(6).integers(0, 256, 24, np.uint8)
    data.flags.writeable = False
    for offset in range(20):
        four = data[offset : offset + 4].tobytes()
        expected = [np.frombuffer(four[: np.dtype(t).itemsize], t)[0] for t in ("u1", "i1", "<u2", "<i2", "<u4", "<f4")]
        np.testing.assert_array_equal(np.array(read_scalars(data, offset)), np.array(expected, np.float64))


@njit
def convert_halves(bits, out):
    for k in range(0, bits.size, 8):
        store_f32x8(out, k, load_f16x8(bits, k))
        store_f32x8(out, bits.size + k, load_bf16x8(bits, k))
    for k in range(bits.size):
        store_f32(out, 2 * bits.size + k, load_f16(bits, k))
        store_f32(out, 3 * bits.size + k, load_bf16(bits, k))


def test_every_float16_and_bfloat16_is_widened() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    out = np.zeros((4, bits.size), np.float32)  # offsets run over all of a 2-D array
    convert_halves(bits, out)
    with np.errstate(invalid="ignore"):
        half, brain = bits.view(np.float16).astype(np.float32), (bits.astype(np.uint32) << 16).view(np.float32)
    for result, expected in zip(out, (half, brain, half, brain), strict=True):
        np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(np.signbit(result), np.signbit(expected))


@njit
def round_to_halves(x, out):
    for k in range(0, x.size, 8):
        store_f16x8(out, k, load_f32x8(x, k))


def test_rounding_to_float16_is_that_of_numpy() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = np.sort(halves[np.isfinite(halves)]).astype(np.float32)
    middles = (halves[:-1] + halves[1:]) / 2  # ties, exact in float32
    beside = np.concatenate([np.nextafter(middles, np.float32(np.inf)), np.nextafter(middles, np.float32(-np.inf))])
    more = np.array([65519.996, 65520, 65536, 3e38, 1e-45, 2.0**-25, 2.0**-24 * 1.5, 2.0**-14], np.float32)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan], np.float32)
    x = np.concatenate([halves, middles, beside, special, more, -more])
    x = np.concatenate([x, np.zeros(-x.size % 8, np.float32)])
    out = np.zeros(x.size, np.uint16)
    round_to_halves(x, out)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        expected = x.astype(np.float16)
    np.testing.assert_array_equal(out.view(np.float16), expected)
    np.testing.assert_array_equal(np.signbit(out.view(np.float16)), np.signbit(expected))


@njit
def store_all(x, floats_, halves, bytes_):
    store_f32x8(floats_, 3, load_f32x8(x, 0))
    store_f32(floats_, 12, 7.5)
    store_f16x8(halves, 1, load_f32x8(x, 0))
    store_i8x8(bytes_, 2, to_i32x8(load_f32x8(x, 0)))


def test_stores_write_their_bytes_and_no_others() -> None:
    x = np.arange(-4, 4, dtype=np.float32) * 100
    floats_, halves, bytes_ = np.full((2, 7), 9, np.float32), np.full(10, 9, np.uint16), np.full(12, 9, np.int8)
    store_all(x, floats_, halves, bytes_)
    np.testing.assert_array_equal(floats_.reshape(-1), [9, 9, 9, *x, 9, 7.5, 9])
    np.testing.assert_array_equal(halves, [9, *x.astype(np.float16).view(np.uint16), 9])
    np.testing.assert_array_equal(bytes_, [9, 9, *x.astype(np.int64).astype(np.int8), 9, 9])


@njit(boundscheck=True)
def touch(array, which, offset):
    if which == 0:
        return np.float64(load_u8(array, offset))
    if which == 1:
        return np.float64(load_u32(array, offset))
    if which == 2:
        return np.float64(load_f16x8(array, offset)[0])
    if which == 3:
        return np.float64(load_u8x32(array, offset)[0])
    store_f32x8(array, offset, f32x8(0.0))
    return 0.0


@pytest.mark.parametrize("shape", [(40,), (4, 10)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32], ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize(("which", "num_bytes"), [(0, 1), (1, 4), (2, 16), (3, 32), (4, 32)])
def test_bounds_are_checked(which: int, num_bytes: int, dtype: type, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    last = (array.nbytes - num_bytes) // array.itemsize
    for offset in (0, 1, last):
        touch(array, which, offset)
    for offset in (last + 1, 40, 41, 10**6, -1, -39, 2**62, 2**63 - 1, -(2**62), -(2**63)):
        with pytest.raises(IndexError, match="vector access is out of bounds"):
            touch(array, which, offset)


# ------------------------------------------------------------------------------------------------ misuse

FLAT, TRANSPOSED = np.zeros(64, np.float32), np.zeros((64, 2), np.float32).T
READ_ONLY = np.zeros(64, np.float32)
READ_ONLY.flags.writeable = False
MISUSES = {
    "strided": (lambda a: load_f32x8(a, 0)[0], TRANSPOSED, "load_f32x8 takes a C-contiguous array, not"),
    "no array": (lambda a: load_f32x8(1.5, 0)[0], FLAT, "load_f32x8 takes a C-contiguous array, not"),
    "float offset": (lambda a: load_u8(a, 1.5), FLAT, "load_u8 takes an integer offset, not float64"),
    "read-only": (lambda a: store_f32(a, 0, 1.0), READ_ONLY, "store_f32 takes an array that can be written, not"),
    "other vector": (lambda a: store_f32x8(a, 0, i32x8(0)), FLAT, "store_f32x8 writes f32x8, not i32x8"),
    "unsigned swapped": (
        lambda a: maddubs(load_i8x32(a, 0), load_u8x32(a, 0))[0],
        FLAT,
        r"maddubs takes \(u8x32, i8x32\) -> i16x16, not \(i8x32, u8x32\)",
    ),
    "float for integer": (lambda a: i16x16(1.5)[0], FLAT, r"takes \(int16\) -> i16x16, not \(float64\)"),
    "mixed vectors": (lambda a: (i32x8(1) + f32x8(1.0))[0], FLAT, "No implementation of function"),
    "bits of floats": (lambda a: (f32x8(1.0) & 1)[0], FLAT, "No implementation of function"),
    "integer division": (lambda a: (i32x8(1) / 2)[0], FLAT, "No implementation of function"),
    "float into integers": (lambda a: (i32x8(1) + 0.5)[0], FLAT, "No implementation of function"),
    "scalar on the left": (lambda a: (2.0 * f32x8(1.0))[0], FLAT, "No implementation of function"),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_a_typing_error_that_says_what_is_right(name: str) -> None:
    function, array, message = MISUSES[name]
    with pytest.raises(TypingError, match=message):
        njit(function)(array)
