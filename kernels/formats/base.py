"""What a quantization type is: the description that each file of this folder fills in.

A weight matrix of a GGUF file lies row by row; a row is a sequence of blocks of `qk` elements in `type_size` bytes.
Each format brings the readable form of its operations (``*_ref``, numpy) beside the compiled one. A `Format` may be
passed to a kernel: its Numba type carries its name, so that each format gets its own specialisation of a generic
kernel such as :func:`densecore.kernels.matmul.matmul`, in which `vec_dot` and `dequantize_row` are the format's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core.pythonapi import NativeValue
from numba.extending import models, overload, register_model, typeof_impl, unbox

from ..cache import INLINED_OPTIONS, inlined
from ..panel import Unpacked
from ..simd import (
    abs_u8,
    concat_i16,
    concat_u8,
    f32x8,
    fma,
    fma_f32,
    i16x8,
    i16x16,
    load_f32,
    load_f32x8,
    load_i8x32,
    load_i16,
    load_u8x16,
    madd,
    maddubs,
    sign,
    store_f32,
    sum_f32x8,
    sum_i32x8,
    with_lane,
)


class Q8(NamedTuple):
    """Activations in int8: value = d * q. What dot products of quantized weights take.

    A group of `n_in / d.shape[1]` elements shares a scale: 32 for formats with blocks of 32, 256 for K-quants.
    The sums of q turn a block's minimum or offset into one multiplication.
    """

    q: np.ndarray  # (num_tokens, n_in) int8, within -127..127
    d: np.ndarray  # (num_tokens, n_in / group) float32
    sums: np.ndarray  # (num_tokens, n_in / 16) int16: q summed over each 16 elements


@dataclass(frozen=True, eq=False)
class Format:
    """A quantization type: layout and operations.

    Attributes
    ----------
    name, ggml_type : name and number of the type in GGUF files.
    qk, type_size : elements in a block, and its bytes.
    group : elements that share a scale in the int8 activations that `vec_dot` takes; 0 if it takes float32.
    dequantize_ref : blocks (n, type_size) uint8 -> (n, qk) float32, numpy.
    dequantize_row : compiled; (w, offset, num_blocks, out, out_offset) writes float32, bit-equal to `dequantize_ref`.
    vec_dot_ref : a row (n, type_size) times a token, as `Q8` of that token alone or float32 (n * qk,).
    vec_dot : compiled; (w, offset, num_blocks, x, token) -> float32, x as `Q8` or float32 (num_tokens, n_in).
    unpacked : how panels are filled, for products faster than by `vec_dot`; None if there are none.
    loads : of a float format, intrinsics (w, byte offset) -> float32, and -> f32x8 for eight in a row; else None.
    """

    name: str
    ggml_type: int
    qk: int
    type_size: int
    group: int
    dequantize_ref: Callable[[np.ndarray], np.ndarray]
    dequantize_row: Callable[..., None]
    vec_dot_ref: Callable[..., np.float32]
    vec_dot: Callable[..., np.float32]
    unpacked: Unpacked | None = None
    loads: tuple[Callable, Callable] | None = None

    def row_bytes(self, n_in: int) -> int:
        """Bytes of a row of `n_in` elements, a multiple of `qk`."""
        return n_in // self.qk * self.type_size


class FormatType(types.Type):
    """Numba type of one `Format`."""

    def __init__(self, fmt: Format) -> None:
        self.format = fmt
        super().__init__(name=f"Format({fmt.name})")

    @property
    def key(self) -> str:
        return self.name


@register_model(FormatType)
class _FormatModel(models.OpaqueModel):
    """Nothing at run time: the type says it all."""


@typeof_impl.register(Format)
def _typeof_format(value: Format, context: Any) -> FormatType:
    return FormatType(value)


@unbox(FormatType)
def _unbox_format(typ: FormatType, value: Any, context: Any) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())


# ------------------------------------------------------- operations of a format, callable from generic kernels


def vec_dot(fmt, w, offset, num_blocks, x, token):
    """The dot product of the row at byte `offset` of `w` with `token` of `x` (see `Format.vec_dot`)."""
    blocks = w[offset : offset + num_blocks * fmt.type_size].reshape(num_blocks, fmt.type_size)
    return fmt.vec_dot_ref(blocks, Q8(*(part[token] for part in x)) if fmt.group else x[token])


def dequantize_row(fmt, w, offset, num_blocks, out, out_offset):
    """Write the row at byte `offset` of `w` as float32 (see `Format.dequantize_row`)."""
    blocks = w[offset : offset + num_blocks * fmt.type_size].reshape(num_blocks, fmt.type_size)
    out.reshape(-1)[out_offset : out_offset + num_blocks * fmt.qk] = fmt.dequantize_ref(blocks).reshape(-1)


@overload(vec_dot, jit_options=INLINED_OPTIONS)
def _vec_dot(fmt, w, offset, num_blocks, x, token):
    compiled = fmt.format.vec_dot
    return lambda fmt, w, offset, num_blocks, x, token: compiled(w, offset, num_blocks, x, token)


@overload(dequantize_row, jit_options=INLINED_OPTIONS)
def _dequantize_row(fmt, w, offset, num_blocks, out, out_offset):
    compiled = fmt.format.dequantize_row
    return lambda fmt, w, offset, num_blocks, out, out_offset: compiled(w, offset, num_blocks, out, out_offset)


# ------------------------------------------------------- helpers of the compiled forms


@inlined
def dot_32(q, x, column):
    """Exact sum of 32 unsigned q, at most 128, times the 32 elements that are `column` of x, as int32.

    Each int16 of `maddubs` holds two products: 2 * 128 * 127 fits.
    """
    return sum_i32x8(madd(maddubs(q, load_i8x32(x.q, 32 * column)), i16x16(1)))


@inlined
def maddubs_signed(q, x):
    """Products of signed bytes q and x, x within -127..127, neighbours added: |q| times (x with the sign of q).

    2 * 128 * 127 fits int16.
    """
    return maddubs(abs_u8(q), sign(x, q))


@inlined
def dot_32_signed(q, x, column):
    """Exact sum of 32 signed q times the 32 elements that are `column` of x, as int32."""
    return sum_i32x8(madd(maddubs_signed(q, load_i8x32(x.q, 32 * column)), i16x16(1)))


@inlined
def sum_32(x, column):
    """Sum of the 32 elements that are `column` of x, as int32."""
    return np.int32(load_i16(x.sums, 2 * column)) + np.int32(load_i16(x.sums, 2 * column + 1))


@inlined
def load_nibbles(w, start):
    """The 32 nibbles of 16 bytes: all low ones, then all high ones."""
    packed = load_u8x16(w, start)
    return concat_u8(packed, packed >> 4) & 15


@inlined
def scale_pair(scales, run):
    """Scales 2 * run and 2 * run + 1 of an i16x16, eight times each: the factors of a run of 32 after `maddubs`."""
    return concat_i16(i16x8(scales[2 * run]), i16x8(scales[2 * run + 1]))


def float_operations(load: Callable, load_8: Callable, type_size: int) -> tuple[Callable, Callable]:
    """`dequantize_row` and `vec_dot` of a format whose blocks are single floats of `type_size` bytes.

    load, load_8 : intrinsics (w, byte offset) -> float32, and -> f32x8 for eight in a row.
    """

    @inlined
    def dequantize_row(w, offset, num_blocks, out, out_offset):
        for k in range(num_blocks):
            store_f32(out, out_offset + k, load(w, offset + k * type_size))

    @inlined
    def vec_dot(w, offset, num_blocks, x, token):
        acc = f32x8(0.0)
        first = token * num_blocks
        whole = num_blocks // 8 * 8
        for k in range(0, whole, 8):
            acc = fma(load_8(w, offset + k * type_size), load_f32x8(x, first + k), acc)
        for k in range(whole, num_blocks):
            lane = fma_f32(load(w, offset + k * type_size), load_f32(x, first + k), acc[k - whole])
            acc = with_lane(acc, k - whole, lane)
        return sum_f32x8(acc)

    return dequantize_row, vec_dot


# ------------------------------------------------------- helpers of the readable forms


def read_f16(blocks: np.ndarray, start: int) -> np.ndarray:
    """The float16 at byte `start` of each block, as float32 (n, 1)."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view(np.float16).astype(np.float32)


def nibbles_ref(packed: np.ndarray) -> np.ndarray:
    """(..., n) uint8 -> (..., 2 n), 0..15: all low nibbles, then all high ones"""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def fma_ref(a: Any, b: Any, c: Any) -> np.float32:
    """float32 a * b + c rounded once.

    The product is exact in float64. The sum is rounded there to odd: were it rounded to nearest, a second rounding
    to float32 could go the wrong way (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        product, addend = np.float64(a) * np.float64(b), np.float64(c)
        total = product + addend
        back = total - product
        error = (product - (total - back)) + (addend - back)  # Knuth's TwoSum: total + error is exact
        if np.isfinite(error) and error != 0 and total.view(np.int64) % 2 == 0:
            total = np.nextafter(total, np.copysign(np.inf, error))
        return np.float32(total)


def float_vec_dot_ref(w: np.ndarray, x: np.ndarray) -> np.float32:
    """w (n,) times x (n,), float32, in the order of the compiled float formats.

    Element k goes to partial sum k mod 8; the eight partial sums are added by the tree of `simd.sum_f32x8`.
    """
    acc = np.zeros(8, np.float32)
    for k in range(w.size):
        acc[k % 8] = fma_ref(w[k], x[k], acc[k % 8])
    four = acc[:4] + acc[4:]
    two = four[:2] + four[2:]
    return two[0] + two[1]
