"""Random weights, made directly in the bytes of their type: nothing is quantized.

The bits of a block are random; its float16 scales are chosen so that the values have a wanted standard deviation and
an average of about 0, as weights have. Speed depends on sizes and types alone, so such weights serve to measure it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from densecore.gguf import GGMLType

__all__ = ["random_weights"]


class _Layout(NamedTuple):
    """Where the float16 scales of a block lie, and what its values are when the main one is 1.

    scales : byte offset -> factor of the main scale. A factor for the minimums centres the values on 0.
    deviation : standard deviation of a value of a block of random bits.
    """

    scales: dict[int, float]
    deviation: float


# A q of n bits has the variance (4^n - 1) / 12, the average of its square is E2 = variance + average^2.
_Q4, _Q5, _Q6 = ((4**bits - 1) / 12 for bits in (4, 5, 6))
_TABLE_SQUARE = 4548.0  # average square of the 16 values of IQ4_NL
_SCALE_SQUARE = _Q6 + 31.5**2  # of a 6-bit scale
_LAYOUTS = {
    GGMLType.Q4_0: _Layout({0: 1.0}, _Q4**0.5),
    GGMLType.Q4_1: _Layout({0: 1.0, 2: -7.5}, _Q4**0.5),
    GGMLType.Q5_0: _Layout({0: 1.0}, _Q5**0.5),
    GGMLType.Q5_1: _Layout({0: 1.0, 2: -15.5}, _Q5**0.5),
    GGMLType.Q8_0: _Layout({0: 1.0}, ((255**2 - 1) / 12) ** 0.5),
    # d * sc * q - dmin * m: with dmin = d * E[q] the variance is E[sc^2 q^2] + E[m^2] E[q]^2 - 2 (E[sc] E[q])^2
    GGMLType.Q4_K: _Layout({0: 1.0, 2: 7.5}, (_SCALE_SQUARE * (_Q4 + 2 * 7.5**2) - 2 * (31.5 * 7.5) ** 2) ** 0.5),
    GGMLType.Q5_K: _Layout({0: 1.0, 2: 15.5}, (_SCALE_SQUARE * (_Q5 + 2 * 15.5**2) - 2 * (31.5 * 15.5) ** 2) ** 0.5),
    GGMLType.Q6_K: _Layout({208: 1.0}, (((256**2 - 1) / 12 + 0.25) * (_Q6 + 0.25)) ** 0.5),  # int8 scales, q - 32
    GGMLType.Q2_K: _Layout({80: 1.0, 82: 1.5}, (77.5 * (1.25 + 2 * 1.5**2) - 2 * (7.5 * 1.5) ** 2) ** 0.5),
    GGMLType.Q3_K: _Layout({108: 1.0}, ((_Q6 + 0.25) * (5.25 + 0.25)) ** 0.5),  # (scale - 32) * (q - 4)
    GGMLType.IQ4_NL: _Layout({0: 1.0}, _TABLE_SQUARE**0.5),
    GGMLType.IQ4_XS: _Layout({0: 1.0}, ((_Q6 + 0.25) * _TABLE_SQUARE) ** 0.5),
}


def random_weights(kind: GGMLType, n_elements: int, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """`n_elements` values of about this standard deviation, as bytes of type `kind` (uint8, 1-D)."""
    if kind in _LAYOUTS:
        return _random_blocks(kind, n_elements // kind.block_size, deviation, rng).reshape(-1)
    values = rng.standard_normal(n_elements, np.float32) * np.float32(deviation)
    if kind is GGMLType.BF16:
        return np.ascontiguousarray(values.view(np.uint16)[1::2]).view(np.uint8)  # the upper halves
    return values.astype({GGMLType.F32: "<f4", GGMLType.F16: "<f2"}[kind]).view(np.uint8)


def _random_blocks(kind: GGMLType, n_blocks: int, deviation: float, rng: np.random.Generator) -> np.ndarray:
    layout = _LAYOUTS[kind]
    blocks = np.frombuffer(rng.bytes(n_blocks * kind.type_size), np.uint8).reshape(n_blocks, kind.type_size).copy()
    if kind is GGMLType.Q8_0:
        blocks[blocks == 0x80] = 0  # quantizing gives -127 to 127
    main = rng.uniform(0.9, 1.1, n_blocks) * (deviation / layout.deviation)
    for offset, factor in layout.scales.items():
        scales = (main * factor).astype("<f2")
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(n_blocks, 2)
    return blocks
