"""What a machine can do at best: read memory, and multiply. The measure of all kernels; no model uses these.

Each thread takes a piece of the work, as in real kernels. What a loop computes depends on every vector in it, so that
the compiler can leave nothing out.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import prange, types

from .cache import inlined, kernel
from .simd import i16x16, load_i8x32, load_u8x32, local_array, madd, maddubs, prefetch_far, sum_i32x8
from .simd_amx import configure_tiles, load_factors, release_tiles, repeat_products, store_sums
from .simd_dots import HAS_DOT, LANES, dot
from .simd_types import HAS_TILES, I8x32, U8x32, Vector, call, constant, instruction, splat

READ_STEP = 128  # bytes that `read_all` takes at a time
FAR = 16384  # bytes before they are read they are asked for, as kernels do: the CPU by itself reads more slowly
CHAINS = 10  # independent instructions in flight: the latency of each is hidden
MACS_PER_INSTRUCTION, MACS_PER_FMA = 16 * 16 * 64 if HAS_TILES else 4 * LANES, LANES
WORDS, FLOATS = Vector("i32", LANES), Vector("f32", LANES)  # as wide as products of matrices use them


@instruction(WORDS, (types.int32,), "The same number in all lanes.")
def words(builder, value):
    return splat(builder, WORDS, value)


@instruction(FLOATS, (types.float32,), "The same number in all lanes.")
def floats(builder, value):
    return splat(builder, FLOATS, value)


@instruction(WORDS, (WORDS,), "One multiplication of all bytes by 1: plus 4 in each lane, or, by vpmaddubsw, the same.")
def multiply_by_ones(builder, sums):
    ones = constant(ir.VectorType(ir.IntType(8), 4 * LANES), 1)
    if HAS_DOT:
        return dot(builder, sums, ones, ones)
    product = maddubs.emit(builder, builder.bitcast(sums, U8x32.llvm), constant(I8x32.llvm, 1))
    return builder.bitcast(product, WORDS.llvm)


@instruction(FLOATS, (FLOATS, FLOATS), "a * b + b (vfmadd).")
def multiply_and_add(builder, a, b):
    return call(builder, f"llvm.fma.v{LANES}f32", FLOATS.llvm, [a, b, b])


@instruction(types.int32, (WORDS,), "Sum of all lanes.")
def sum_words(builder, a):
    return call(builder, f"llvm.vector.reduce.add.v{LANES}i32", ir.IntType(32), [a])


@instruction(types.float32, (FLOATS,), "Sum of all lanes.")
def sum_floats(builder, a):
    return call(builder, f"llvm.vector.reduce.fadd.v{LANES}f32", ir.FloatType(), [constant(ir.FloatType(), 0.0), a])


@inlined
def total(a, ones):
    """Sum of all lanes of a u8x32."""
    return sum_i32x8(madd(maddubs(a, ones), i16x16(1)))


@inlined
def read_piece(data, first, last):
    """Read data[first:last] once, in whole steps."""
    a = b = c = d = load_u8x32(data, first)
    for place in range(first, last - READ_STEP + 1, READ_STEP):
        prefetch_far(data, place + FAR)
        prefetch_far(data, place + FAR + 64)
        a |= load_u8x32(data, place)
        b |= load_u8x32(data, place + 32)
        c |= load_u8x32(data, place + 64)
        d |= load_u8x32(data, place + 96)
    return total(a | b | c | d, load_i8x32(data, first))


@kernel(parallel=True)
def fill(data, out):
    """Write zeros to data (uint8), piece by piece on the threads that `read_all` reads them with: first touch."""
    num_tasks = out.size
    for task in prange(num_tasks):
        data[data.size * task // num_tasks : data.size * (task + 1) // num_tasks] = 0


@kernel(parallel=True)
def read_all(data, out):
    """Read data (uint8) with as many tasks as `out` (int64) has elements."""
    num_tasks = out.size
    for task in prange(num_tasks):
        first, last = data.size * task // num_tasks, data.size * (task + 1) // num_tasks
        out[task] = read_piece(data, first, last)


@inlined
def byte_chains(first, rounds):
    """`rounds` times CHAINS instructions, each working on the result of the one before it in its chain."""
    a, b, c, d, e = words(first), words(first + 1), words(first + 2), words(first + 3), words(first + 4)
    f, g, h, i, j = words(first + 5), words(first + 6), words(first + 7), words(first + 8), words(first + 9)
    for _ in range(rounds):
        a, b, c = multiply_by_ones(a), multiply_by_ones(b), multiply_by_ones(c)
        d, e, f = multiply_by_ones(d), multiply_by_ones(e), multiply_by_ones(f)
        g, h, i = multiply_by_ones(g), multiply_by_ones(h), multiply_by_ones(i)
        j = multiply_by_ones(j)
    return sum_words(a + b + c + d + e + f + g + h + i + j)


@inlined
def tile_chains(first, rounds):
    """The same with tile registers that hold `first` everywhere; returns one sum."""
    factors, sums = local_array(np.int8, 1024), local_array(np.int32, 512)
    for i in range(factors.size):
        factors[i] = first
    configure_tiles(64)
    load_factors(factors)
    for _ in range(rounds):
        repeat_products(CHAINS)
    store_sums(sums)
    release_tiles()
    return sums[0] + sums[511]


multiply_chains = tile_chains if HAS_TILES else byte_chains


@kernel(parallel=True)
def multiply_bytes(first, rounds, out):
    """CHAINS * `rounds` instructions on each of the tasks of `out` (int64); first: a small int, to start with."""
    for task in prange(out.size):
        out[task] = multiply_chains(first, rounds)


@inlined
def fma_chains(start, rounds):
    """`rounds` times CHAINS instructions."""
    x = floats(start)
    a, b, c, d, e = x, x + 1.0, x + 2.0, x + 3.0, x + 4.0
    f, g, h, i, j = x + 5.0, x + 6.0, x + 7.0, x + 8.0, x + 9.0
    for _ in range(rounds):
        a, b, c = multiply_and_add(a, x), multiply_and_add(b, x), multiply_and_add(c, x)
        d, e, f = multiply_and_add(d, x), multiply_and_add(e, x), multiply_and_add(f, x)
        g, h, i = multiply_and_add(g, x), multiply_and_add(h, x), multiply_and_add(i, x)
        j = multiply_and_add(j, x)
    return sum_floats(a + b + c + d + e + f + g + h + i + j)


@kernel(parallel=True)
def multiply_floats(start, rounds, out):
    """CHAINS * `rounds` of `fma` on each of the tasks of `out` (float64); start: float32 below 1."""
    for task in prange(out.size):
        out[task] = fma_chains(start, rounds)
