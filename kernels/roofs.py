"""What a machine can do at best: read memory, and multiply. The measure of all kernels; no model uses these.

Each thread takes a piece of the work, as in real kernels. What a loop computes depends on every vector in it, so that
the compiler can leave nothing out.
"""

from __future__ import annotations

from numba import prange

from .cache import inlined, kernel
from .simd import f32x8, fma, i16x16, load_i8x32, load_u8x32, madd, maddubs, sum_f32x8, sum_i32x8
from .simd_types import I16x16, U8x32, instruction

READ_STEP = 128  # bytes that `read_all` takes at a time
CHAINS = 10  # independent instructions in flight: the latency of each is hidden
MACS_PER_MADDUBS, MACS_PER_FMA = 32, 8


@instruction(U8x32, (I16x16,), "The same bits as bytes.")
def as_bytes(builder, a):
    return builder.bitcast(a, U8x32.llvm)


@inlined
def total(a, ones):
    """Sum of all lanes of a u8x32."""
    return sum_i32x8(madd(maddubs(a, ones), i16x16(1)))


@inlined
def read_piece(data, first, last):
    """Read data[first:last] once, in whole steps."""
    a = b = c = d = load_u8x32(data, first)
    for place in range(first, last - READ_STEP + 1, READ_STEP):
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
def maddubs_chains(data, rounds):
    """`rounds` times CHAINS instructions, each working on the result of the one before it in its chain."""
    factors = load_i8x32(data, 0)
    a, b, c, d = load_u8x32(data, 0), load_u8x32(data, 1), load_u8x32(data, 2), load_u8x32(data, 3)
    e, f, g, h = load_u8x32(data, 4), load_u8x32(data, 5), load_u8x32(data, 6), load_u8x32(data, 7)
    i, j = load_u8x32(data, 8), load_u8x32(data, 9)
    for _ in range(rounds):
        a, b = as_bytes(maddubs(a, factors)), as_bytes(maddubs(b, factors))
        c, d = as_bytes(maddubs(c, factors)), as_bytes(maddubs(d, factors))
        e, f = as_bytes(maddubs(e, factors)), as_bytes(maddubs(f, factors))
        g, h = as_bytes(maddubs(g, factors)), as_bytes(maddubs(h, factors))
        i, j = as_bytes(maddubs(i, factors)), as_bytes(maddubs(j, factors))
    return total(a | b | c | d | e | f | g | h | i | j, factors)


@kernel(parallel=True)
def multiply_bytes(data, rounds, out):
    """CHAINS * `rounds` instructions on each of the tasks of `out` (int64); data: bytes to start with, at least 48."""
    for task in prange(out.size):
        out[task] = maddubs_chains(data, rounds)


@inlined
def fma_chains(start, rounds):
    """`rounds` times CHAINS instructions."""
    x = f32x8(start)
    a, b, c, d, e = x, x + 1.0, x + 2.0, x + 3.0, x + 4.0
    f, g, h, i, j = x + 5.0, x + 6.0, x + 7.0, x + 8.0, x + 9.0
    for _ in range(rounds):
        a, b, c, d, e = fma(a, x, x), fma(b, x, x), fma(c, x, x), fma(d, x, x), fma(e, x, x)
        f, g, h, i, j = fma(f, x, x), fma(g, x, x), fma(h, x, x), fma(i, x, x), fma(j, x, x)
    return sum_f32x8(a + b + c + d + e + f + g + h + i + j)


@kernel(parallel=True)
def multiply_floats(start, rounds, out):
    """CHAINS * `rounds` of `fma` on each of the tasks of `out` (float64); start: float32 below 1."""
    for task in prange(out.size):
        out[task] = fma_chains(start, rounds)
