"""Blocks of weights, activations and guarded memory for the tests of formats and matrix products."""

from __future__ import annotations

import ctypes
import ctypes.util
import mmap
import os

import numpy as np

from bench.block_scales import num_scales, write_scales
from densecore.kernels.formats import FORMATS, Q8, Format
from densecore.kernels.quantize import quantize_q8_ref

# Made by `formats.runs` just as others are, but for what `test_formats` checks: compiled less often, to save time.
ALIKE = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_S", "IQ3_S", "IQ3_XXS", "TQ1_0"}
DIFFERENT = sorted(set(FORMATS) - ALIKE)
NAMES = DIFFERENT if {"DENSECORE_ISA", "NUMBA_BOUNDSCHECK"} & set(os.environ) else sorted(FORMATS)
FLOAT_NAMES = [name for name in NAMES if FORMATS[name].group == 0]
QUANTIZED_NAMES = [name for name in NAMES if FORMATS[name].group > 0]
EXTREME_BYTES = (0x00, 0x0F, 0x70, 0x7F, 0x80, 0x8F, 0xF0, 0xFF)


def finite_halves(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n,) float16 of any finite bits, with some zeros and subnormals of both signs."""
    bits = rng.integers(0, 0x7C00, n, np.uint16)
    bits[::5] %= 0x0400  # subnormal
    bits[::11] = 0
    return (bits | rng.integers(0, 2, n, np.uint16) << 15).view(np.float16)


def ordinary_halves(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n,) float16 of the size that scales of real weights have."""
    return (rng.choice([-1, 1], n) * rng.uniform(0.001, 0.01, n)).astype(np.float16)


def random_blocks(fmt: Format, n: int, rng: np.random.Generator, halves=ordinary_halves) -> np.ndarray:
    """n random valid blocks (n, type_size) uint8."""
    if fmt.name in ("F32", "BF16"):
        values = rng.standard_normal((n, 1)).astype(np.float32)
        return np.ascontiguousarray(values.view(np.uint8)[:, 4 - fmt.type_size :])
    blocks = rng.integers(0, 256, (n, fmt.type_size), np.uint8)
    write_scales(fmt.name, blocks, [halves(rng, n) for _ in range(num_scales(fmt.name))])
    return blocks


def extreme_rows(fmt: Format, n_out: int, num_blocks: int) -> np.ndarray:
    """Rows (n_out, num_blocks, type_size) uint8 with all scales 1.

    Weights are at both ends of their range, and so are scales of sub-blocks.
    """
    rows = np.empty((n_out, num_blocks, fmt.type_size), np.uint8)
    rows[...] = np.resize(np.array(EXTREME_BYTES, np.uint8), n_out)[:, None, None]
    ones = np.ones(n_out * num_blocks, np.float16)
    write_scales(fmt.name, rows.reshape(-1, fmt.type_size), [ones] * num_scales(fmt.name))
    return rows


def as_file(blocks: np.ndarray) -> np.ndarray:
    """The bytes of `blocks` as a reader of files gives them: flat and read-only."""
    flat = np.ascontiguousarray(blocks).reshape(-1).view()
    flat.flags.writeable = False
    return flat


def operand(fmt: Format, x: np.ndarray) -> Q8 | np.ndarray:
    """x (num_tokens, n_in) float32 as the dot products of `fmt` take it."""
    return quantize_q8_ref(x, fmt.group) if fmt.group else x


def token_of(x: Q8 | np.ndarray, token: int) -> Q8 | np.ndarray:
    """One token of an operand, as `vec_dot_ref` takes it."""
    return Q8(*(part[token] for part in x)) if isinstance(x, Q8) else x[token]


def dequantize_operand(x: Q8 | np.ndarray) -> np.ndarray:
    """An operand as float64 (num_tokens, n_in)."""
    if not isinstance(x, Q8):
        return x.astype(np.float64)
    num_tokens, num_groups = x.d.shape
    return (x.q.reshape(num_tokens, num_groups, -1) * x.d[..., None].astype(np.float64)).reshape(num_tokens, -1)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal float32 arrays, with -0 and 0 told apart."""
    return (
        a.shape == b.shape and a.dtype == b.dtype == np.float32 and bool((a.view(np.int32) == b.view(np.int32)).all())
    )


class Guarded:
    """Memory for arrays between two pages that must not be touched: an access beyond the array ends the process."""

    def __init__(self, array: np.ndarray, *, at_end: bool) -> None:
        page = mmap.PAGESIZE
        num_inner = max(1, -(-array.nbytes // page)) * page
        self._map = mmap.mmap(-1, num_inner + 2 * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        protect = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for guard in (base, base + page + num_inner):
            if protect(guard, page, 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        first = page + (num_inner - array.nbytes if at_end else 0)
        inner = np.frombuffer(self._map, array.dtype, array.size, first).reshape(array.shape)
        inner[...] = array
        self.array = inner
        self.array.flags.writeable = array.flags.writeable


def guarded(array: np.ndarray, *, at_end: bool) -> np.ndarray:
    """A copy of `array` that begins right behind, or ends right before, a page that must not be touched."""
    return Guarded(array, at_end=at_end).array
