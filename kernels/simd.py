"""SIMD vectors for Numba kernels: types, operators and instructions.

LLVM does not find int8 dot products by itself, so kernels write vectors out. A vector is an immutable value like a
number: ``acc = fma(f32x8(d), x, acc)``. This module gives

* types u8x16, i8x16, u8x32, i8x32, i16x8, i16x16, i32x8 and f32x8; ``i16x8 i16x16 i32x8 f32x8`` broadcast a
  scalar when called, ``f32x8(0.0)``;
* operators ``+ - * & | ^ << >>`` (``+ - * /`` for floats) between equal types or with a scalar on the right, and
  ``v[lane]``. Shifts must be less than the width of a lane, and lane numbers less than the number of lanes;
* loads and stores: ``load_u8x32(array, offset)`` takes a C-contiguous array of any shape. The offset counts the
  *array's own elements*, whatever is loaded: bytes for weights (uint8), floats for activations. Any alignment will
  do. Numba has no float16 arrays: float16 lies in uint8 or uint16. With ``NUMBA_BOUNDSCHECK=1`` every access is
  checked and raises IndexError;
* instructions: ``maddubs``, ``madd``, ``fma``, ``lookup`` and so on, each documented with what it becomes.

Vectors live in compiled code only: none of this can be called from Python, nor under ``NUMBA_DISABLE_JIT=1``.

Two implementations stand behind the names. ``ISA == "avx2"`` emits x86 instructions; ``"portable"`` emits generic
LLVM vector operations that any CPU runs, and that tests use as a second opinion. Both give the same bits (which NaN
a NaN is aside). The environment variable ``DENSECORE_ISA`` overrides the choice that is made from the CPU's features.

The parts: `simd_types` (types and operators), `simd_memory` (loads and stores), `simd_instructions` (the rest).
"""

from __future__ import annotations

from .simd_instructions import (
    abs_u8,
    as_f32,
    as_i32,
    bits_to_bytes,
    bytes_to_i16x8,
    concat_i16,
    concat_u8,
    fma,
    fma_f32,
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
)
from .simd_memory import (
    load_bf16,
    load_bf16x8,
    load_f16,
    load_f16x8,
    load_f32,
    load_f32x8,
    load_i8,
    load_i8x16,
    load_i8x32,
    load_i16,
    load_i16x16,
    load_u8,
    load_u8x16,
    load_u8x32,
    load_u16,
    load_u32,
    local_array,
    prefetch,
    store,
    store_f16x8,
    store_f32,
    store_f32x8,
    store_i8x8,
)
from .simd_rows import (
    as_bytes,
    concat,
    half_of_words,
    interleave_16,
    interleave_32,
    load_halves,
    load_words,
    lookup_wide,
    part,
    spread,
    spread_bits,
    spread_pairs,
)
from .simd_tiles import (
    TILE_ROWS,
    as_floats,
    broadcast_pair,
    dot_runs,
    each_column,
    each_row,
    fma_tile,
    load_both,
    load_tile,
    madd_rows,
    outer_madd,
    products,
    zero_i32,
)
from .simd_types import (
    ISA,
    f32x8,
    i16x8,
    i16x16,
    i32x8,
    with_lane,
)

__all__ = [
    "ISA",
    "TILE_ROWS",
    "abs_u8",
    "as_bytes",
    "as_f32",
    "as_floats",
    "as_i32",
    "bits_to_bytes",
    "broadcast_pair",
    "bytes_to_i16x8",
    "concat",
    "concat_i16",
    "concat_u8",
    "dot_runs",
    "each_column",
    "each_row",
    "f32x8",
    "fma",
    "fma_f32",
    "fma_tile",
    "half_of_words",
    "i16x8",
    "i16x16",
    "i32x8",
    "interleave_16",
    "interleave_32",
    "load_bf16",
    "load_bf16x8",
    "load_both",
    "load_f16",
    "load_f16x8",
    "load_f32",
    "load_f32x8",
    "load_halves",
    "load_i8",
    "load_i8x16",
    "load_i8x32",
    "load_i16",
    "load_i16x16",
    "load_tile",
    "load_u8",
    "load_u8x16",
    "load_u8x32",
    "load_u16",
    "load_u32",
    "load_words",
    "local_array",
    "lookup",
    "lookup_wide",
    "madd",
    "madd_i16x8",
    "madd_rows",
    "maddubs",
    "max_f32x8",
    "maximum",
    "minimum",
    "outer_madd",
    "pair_sums",
    "part",
    "prefetch",
    "products",
    "round_f32x8",
    "sign",
    "spread",
    "spread_bits",
    "spread_pairs",
    "store",
    "store_f16x8",
    "store_f32",
    "store_f32x8",
    "store_i8x8",
    "sum_f32x8",
    "sum_i32x4",
    "sum_i32x8",
    "to_i32x8",
    "widen_i8x16",
    "widen_u8x16",
    "with_lane",
    "zero_i32",
]
