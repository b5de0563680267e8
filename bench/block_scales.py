"""Writing the scales of blocks, for tests and benchmarks that make blocks of otherwise random bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["num_scales", "write_scales"]

# Byte offsets of the float16 scales in a block, the main one first. All other bytes may have any value.
_OFFSETS = {
    "F16": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "IQ1_S": (0,),
    "IQ2_XXS": (0,),
    "IQ2_XS": (0,),
    "IQ2_S": (0,),
    "IQ3_XXS": (0,),
    "IQ3_S": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}


def num_scales(name: str) -> int:
    """How many scales `write_scales` takes for a type: two if it has minimums; 0 for floats of 32 bits and BF16."""
    return len(_OFFSETS.get(name, ())) or int(name in _WRITERS)


def write_scales(name: str, blocks: np.ndarray, scales: Sequence[np.ndarray]) -> None:
    """Write `num_scales` scales, each (n,) float, into blocks (n, type_size) uint8, rounded as the type has them."""
    for offset, values in zip(_OFFSETS.get(name, ()), scales, strict=name in _OFFSETS):
        blocks[:, offset : offset + 2] = _half_bits(values).view(np.uint8).reshape(-1, 2)
    if name in _WRITERS:
        _WRITERS[name](blocks, scales[0])


def _half_bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, "<f2").view("<u2")


def _write_exponent(blocks: np.ndarray, values: np.ndarray) -> None:
    """MXFP4: the power of two at or below |value|, as e of 2^(e - 128); 2^-128 for zero."""
    exponents = np.frexp(values.astype(np.float32))[1] - 1
    blocks[:, 0] = np.where(values == 0, 0, np.clip(exponents + 128, 0, 255))


def _write_nibbles(blocks: np.ndarray, values: np.ndarray) -> None:
    """IQ1_M: the bits of a float16, a nibble in the upper bits of each of four uint16."""
    bits = _half_bits(values)
    for i in range(4):
        high = (bits >> 4 * i & 15).astype(np.uint8)
        blocks[:, 49 + 2 * i] = blocks[:, 49 + 2 * i] & 15 | high << 4


def _write_small_floats(blocks: np.ndarray, values: np.ndarray) -> None:
    """NVFP4: |value| and some fractions of it, as floats of 8 bits."""
    from gguf.quants import NVFP4

    for i, fraction in enumerate((1, 0.5, 0.75, 0.25)):
        blocks[:, i] = NVFP4.fp32_to_ue4m3(2 * fraction * np.abs(values.astype(np.float32)))


_WRITERS: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "IQ1_M": _write_nibbles,
    "MXFP4": _write_exponent,
    "NVFP4": _write_small_floats,
}
