"""Random weights, made directly in the bytes of their type: nothing is quantized.

The bits of a block are random; its scales are chosen so that the values have a wanted standard deviation and
an average of about 0, as weights have. Speed depends on sizes and types alone, so such weights serve to measure it.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from bench.block_scales import num_scales, write_scales
from densecore.gguf import GGMLType
from densecore.kernels.formats import FORMATS

__all__ = ["random_weights"]


class _Layout(NamedTuple):
    """What the values of a block of random bits are when its main scale is 1.

    deviation : standard deviation of a value
    minimum : the scale of the minimums that centres the values on 0
    """

    deviation: float
    minimum: float = 0.0


# A q of n bits has the variance (4^n - 1) / 12, the average of its square is E2 = variance + average^2.
_Q4, _Q5, _Q6 = ((4**bits - 1) / 12 for bits in (4, 5, 6))
_TABLE_SQUARE = 4548.0  # average square of the 16 values of IQ4_NL
_SCALE_SQUARE = _Q6 + 31.5**2  # of a 6-bit scale
_LAYOUTS = {
    GGMLType.Q4_0: _Layout(_Q4**0.5),
    GGMLType.Q4_1: _Layout(_Q4**0.5, -7.5),
    GGMLType.Q5_0: _Layout(_Q5**0.5),
    GGMLType.Q5_1: _Layout(_Q5**0.5, -15.5),
    GGMLType.Q8_0: _Layout(((255**2 - 1) / 12) ** 0.5),
    # d * sc * q - dmin * m: with dmin = d * E[q] the variance is E[sc^2 q^2] + E[m^2] E[q]^2 - 2 (E[sc] E[q])^2
    GGMLType.Q4_K: _Layout((_SCALE_SQUARE * (_Q4 + 2 * 7.5**2) - 2 * (31.5 * 7.5) ** 2) ** 0.5, 7.5),
    GGMLType.Q5_K: _Layout((_SCALE_SQUARE * (_Q5 + 2 * 15.5**2) - 2 * (31.5 * 15.5) ** 2) ** 0.5, 15.5),
    GGMLType.Q6_K: _Layout((((256**2 - 1) / 12 + 0.25) * (_Q6 + 0.25)) ** 0.5),  # int8 scales, q - 32
    GGMLType.Q2_K: _Layout((77.5 * (1.25 + 2 * 1.5**2) - 2 * (7.5 * 1.5) ** 2) ** 0.5, 1.5),
    GGMLType.Q3_K: _Layout(((_Q6 + 0.25) * (5.25 + 0.25)) ** 0.5),  # (scale - 32) * (q - 4)
    GGMLType.IQ4_NL: _Layout(_TABLE_SQUARE**0.5),
    GGMLType.IQ4_XS: _Layout(((_Q6 + 0.25) * _TABLE_SQUARE) ** 0.5),
    GGMLType.MXFP4: _Layout(34.25**0.5),
}
_MEASURED = {GGMLType[name] for name in (
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0", "NVFP4",
)}  # fmt: skip


@cache
def _layout(kind: GGMLType) -> _Layout:
    """By calculation, or of some blocks whose scales are 1."""
    if kind in _LAYOUTS:
        return _LAYOUTS[kind]
    blocks = _random_bytes(kind, 1 << 12, np.random.default_rng(0))
    write_scales(kind.name, blocks, [np.ones(len(blocks))])
    return _Layout(float(FORMATS[kind.name].dequantize_ref(blocks).std()))


def random_weights(kind: GGMLType, n_elements: int, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """`n_elements` values of about this standard deviation, as bytes of type `kind` (uint8, 1-D)."""
    if kind in _LAYOUTS or kind in _MEASURED:
        return _random_blocks(kind, n_elements // kind.block_size, deviation, rng).reshape(-1)
    values = rng.standard_normal(n_elements, np.float32) * np.float32(deviation)
    if kind is GGMLType.BF16:
        return np.ascontiguousarray(values.view(np.uint16)[1::2]).view(np.uint8)  # the upper halves
    return values.astype({GGMLType.F32: "<f4", GGMLType.F16: "<f2"}[kind]).view(np.uint8)


def _random_bytes(kind: GGMLType, n_blocks: int, rng: np.random.Generator) -> np.ndarray:
    """(n_blocks, type_size) uint8"""
    blocks = np.frombuffer(rng.bytes(n_blocks * kind.type_size), np.uint8).reshape(n_blocks, kind.type_size).copy()
    if kind is GGMLType.Q8_0:
        blocks[blocks == 0x80] = 0  # quantizing gives -127 to 127
    if kind is GGMLType.TQ2_0:
        blocks &= ~(blocks << 1 & blocks & 0xAA)  # quantizing gives q of 0 to 2
    return blocks


def _random_blocks(kind: GGMLType, n_blocks: int, deviation: float, rng: np.random.Generator) -> np.ndarray:
    layout, blocks = _layout(kind), _random_bytes(kind, n_blocks, rng)
    main = rng.uniform(0.9, 1.1, n_blocks) * (deviation / layout.deviation)
    if kind is GGMLType.MXFP4:
        main = _powers_of_two(main, rng)
    write_scales(kind.name, blocks, [main, main * layout.minimum][: num_scales(kind.name)])
    return blocks


def _powers_of_two(scales: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The next lower or higher one, by chance, so that the average of the squares stays the same."""
    lower = 2.0 ** np.floor(np.log2(scales))
    is_higher = rng.random(scales.size) < ((scales / lower) ** 2 - 1) / 3
    return np.where(is_higher, 2 * lower, lower)
