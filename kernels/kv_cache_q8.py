"""Keys and values as Q8_0, ggml's type of that name: a float16 scale and 32 int8 (see `kv_layout`).

A group's scale is d = max |x| / 127, and its codes are x / d, rounded to nearest. A group with NaN or infinity gets
d = NaN, so that whoever reads it gets NaN.
"""

from __future__ import annotations

import numpy as np

from .cache import inlined
from .kv_layout import GROUP, SCALED_GROUP
from .quantize import largest_magnitude, quantize_q8_ref
from .simd import (
    i32x8,
    load_f32,
    load_f32x8,
    load_i8,
    local_array,
    round_f32x8,
    store_f16,
    store_f32,
    store_i8,
    store_i8x8,
    to_i32x8,
)

__all__ = ["dequantize_heads_ref", "key_scales", "quantize_heads_ref", "store_key_q8", "store_value_q8", "value_scales"]

_SMALLEST = np.float32(1e-30)  # 127 divided by much less would overflow; as a float16 such a scale is 0 anyway

# ------------------------------------------------------------------------ twins


def quantize_heads_ref(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x (num_tokens, heads, head_dim) float32 -> codes (.., width) int8, scales (.., groups) float16."""
    num_tokens, heads, head_dim = x.shape
    width = -(-head_dim // GROUP) * GROUP
    padded = np.zeros((num_tokens, heads * width), np.float32)
    padded.reshape(num_tokens, heads, width)[..., :head_dim] = x
    q8 = quantize_q8_ref(padded, GROUP)
    with np.errstate(over="ignore"):  # infinity, as in float16
        scales = q8.d.astype(np.float16)
    return q8.q.reshape(num_tokens, heads, width), scales.reshape(num_tokens, heads, width // GROUP)


def dequantize_heads_ref(codes: np.ndarray, scales: np.ndarray, head_dim: int) -> np.ndarray:
    """codes (.., width), scales (.., groups) -> (.., head_dim) float32."""
    return (codes.astype(np.float32) * np.repeat(scales.astype(np.float32), GROUP, axis=-1))[..., :head_dim]


def key_scales(k_cache: np.ndarray) -> np.ndarray:
    """The scales of keys (num_blocks, n_kv_heads, groups, block_room) as float16, a view."""
    num_blocks, n_kv_heads, row, block_room = k_cache.shape
    groups = row // SCALED_GROUP
    scales = k_cache[:, :, groups * GROUP :].view(np.float16)
    return scales.reshape(num_blocks, n_kv_heads, groups, block_room)


def value_scales(v_cache: np.ndarray) -> np.ndarray:
    """The scales of values (num_blocks, n_kv_heads, block_size, groups) as float16, a view."""
    return v_cache[..., v_cache.shape[3] // SCALED_GROUP * GROUP :].view(np.float16)


# ------------------------------------------------------------------------ compiled


@inlined
def quantize_group(source, first, n, codes):
    """Codes of `n` elements, at most 32, with zeros behind them; returns the scale as float32."""
    x = local_array(np.float32, GROUP)
    for i in range(GROUP):
        store_f32(x, i, load_f32(source, first + i) if i < n else np.float32(0))
    largest = largest_magnitude(x, 0, GROUP)
    finite = np.isfinite(largest)
    inverse = np.float32(127) / largest if largest > _SMALLEST else np.float32(0)
    for i in range(0, GROUP, 8):
        store_i8x8(codes, i, to_i32x8(round_f32x8(load_f32x8(x, i) * inverse)) if finite else i32x8(0))
    return largest / np.float32(127)


@inlined
def store_key_q8(source, first, head_dim, cache, start, offset):
    """Copy `head_dim` elements into column `offset` of the keys that begin at `start`."""
    codes, block_room, groups = local_array(np.int8, GROUP), cache.shape[3], cache.shape[2] // SCALED_GROUP
    for g in range(groups):
        n = min(GROUP, head_dim - g * GROUP)
        scale = quantize_group(source, first + g * GROUP, n, codes)
        for i in range(GROUP):
            store_i8(cache, start + (g * GROUP + i) * block_room + offset, load_i8(codes, i))
        store_f16(cache, start + (groups * GROUP + 2 * g) * block_room + 2 * offset, scale)


@inlined
def store_value_q8(source, first, head_dim, cache, start):
    """Copy `head_dim` elements into the row of values that begins at `start`."""
    codes, groups = local_array(np.int8, GROUP), cache.shape[3] // SCALED_GROUP
    for g in range(groups):
        n = min(GROUP, head_dim - g * GROUP)
        scale = quantize_group(source, first + g * GROUP, n, codes)
        for i in range(GROUP):
            store_i8(cache, start + g * GROUP + i, load_i8(codes, i))
        store_f16(cache, start + groups * GROUP + 2 * g, scale)
