"""Rotary position embedding (Su et al. 2021) and the ways in which models stretch it to longer contexts.

Each pair of elements of a head is rotated by the angle position * frequency[pair]. Which elements make a pair differs:

* ``ADJACENT``: (0, 1), (2, 3), ...: Llama weights in GGUF files are stored for it;
* ``HALVES``: (0, n/2), (1, n/2 + 1), ...: GPT-NeoX, Qwen and most others.

Every kind of scaling only changes the frequencies, and a factor on the rotated values (`rope_frequencies`).
"""

from __future__ import annotations

import math

import numpy as np

from .cache import inlined
from .plan import row_operation
from .simd import load_f32, load_f32x8, store_f32, store_f32x8

ADJACENT, HALVES = 0, 1


def rope_frequencies(
    rope_dim: int,
    freq_base: float,
    *,
    scaling: str = "none",
    factor: float = 1.0,
    original_context: int = 0,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    ext_factor: float = 1.0,
    attn_factor: float = 1.0,
    truncate: bool = True,
    divisors: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Angle per position of each pair, (rope_dim / 2,) float64, and the factor on rotated values.

    scaling : "none"; "linear" divides positions by `factor` (Chen et al. 2023); "yarn" does so for slow frequencies
        only and mixes in between (Peng et al. 2023, "YaRN")
    original_context : positions that the model was trained on, before YaRN
    beta_fast, beta_slow : full turns over `original_context` above which a frequency is kept, and below which it is
        interpolated
    ext_factor, attn_factor : strength of YaRN's mix, and a factor on the rotated values
    truncate : round the range in which YaRN mixes to whole pairs
    divisors : (rope_dim / 2,) divide the frequencies: the ``rope_freqs`` tensor of Llama 3, or the ``rope_factors`` of
        Phi 3
    """
    frequencies = freq_base ** (-np.arange(0, rope_dim, 2, dtype=np.float64) / rope_dim)
    if divisors is not None:
        frequencies = frequencies / divisors
    if scaling == "none":
        return frequencies, attn_factor
    stretched = frequencies / factor
    if scaling == "linear" or ext_factor == 0:
        return stretched, attn_factor

    def pair_with_turns(turns: float) -> float:
        """Index of the pair that makes `turns` full turns over the original context."""
        return rope_dim * math.log(original_context / (turns * 2 * math.pi)) / (2 * math.log(freq_base))

    low, high = pair_with_turns(beta_fast), pair_with_turns(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope_dim - 1)
    ramp = np.clip((np.arange(rope_dim // 2) - low) / max(high - low, 0.001), 0, 1)
    keep = (1 - ramp) * ext_factor
    return stretched * (1 - keep) + frequencies * keep, attn_factor * (1 + 0.1 * math.log(factor))


def rope_table_ref(positions, frequencies, magnitude, cos, sin) -> None:
    """cos and sin (num_tokens, rope_dim / 2) float32 of each position's angles, times `magnitude`."""
    angles = positions[:, None] * frequencies
    cos[:], sin[:] = np.cos(angles) * magnitude, np.sin(angles) * magnitude


@row_operation(twin=rope_table_ref, array=lambda positions, frequencies, magnitude, cos, sin: cos)
def rope_table(positions, frequencies, magnitude, cos, sin, first, last):
    """cos and sin (num_tokens, rope_dim / 2) float32 of each position's angles, times `magnitude`."""
    for token in range(first, last):
        for pair in range(frequencies.size):
            angle = positions[token] * frequencies[pair]
            cos[token, pair] = math.cos(angle) * magnitude
            sin[token, pair] = math.sin(angle) * magnitude


def rope_table_of_sets_ref(positions, sets, frequencies, magnitude, cos, sin) -> None:
    """As `rope_table_ref`, with the frequencies (num_sets, rope_dim / 2) of each token's set."""
    angles = positions[:, None] * frequencies[sets]
    cos[:], sin[:] = np.cos(angles) * magnitude, np.sin(angles) * magnitude


@row_operation(twin=rope_table_of_sets_ref, array=lambda positions, sets, frequencies, magnitude, cos, sin: cos)
def rope_table_of_sets(positions, sets, frequencies, magnitude, cos, sin, first, last):
    """As `rope_table`, with the frequencies (num_sets, rope_dim / 2) of each token's set."""
    for token in range(first, last):
        for pair in range(frequencies.shape[1]):
            angle = positions[token] * frequencies[sets[token], pair]
            cos[token, pair] = math.cos(angle) * magnitude
            sin[token, pair] = math.sin(angle) * magnitude


def rope_ref(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, pairing: int) -> None:
    """Rotate the first rope_dim elements of each head of x (num_tokens, heads, head_dim) in place."""
    half = cos.shape[1]
    step, second = (2, 1) if pairing == ADJACENT else (1, half)
    a = x[:, :, 0 : half * step : step].copy()
    b = x[:, :, second : second + half * step : step].copy()
    c, s = cos[:, None], sin[:, None]
    x[:, :, 0 : half * step : step] = a * c - b * s
    x[:, :, second : second + half * step : step] = a * s + b * c


@inlined
def rotate_adjacent(x, first, cos, sin, row, half):
    """Rotate (0, 1), (2, 3), ... of the elements from `first` on, by the angles of a row of the tables."""
    for pair in range(half):
        c, s = load_f32(cos, row + pair), load_f32(sin, row + pair)
        a, b = load_f32(x, first + 2 * pair), load_f32(x, first + 2 * pair + 1)
        store_f32(x, first + 2 * pair, a * c - b * s)
        store_f32(x, first + 2 * pair + 1, a * s + b * c)


@inlined
def rotate_halves(x, first, cos, sin, row, half):
    """Rotate (0, half), (1, half + 1), ... of the elements from `first` on, by the angles of a row of the tables."""
    whole = half // 8 * 8
    for pair in range(0, whole, 8):
        c, s = load_f32x8(cos, row + pair), load_f32x8(sin, row + pair)
        a, b = load_f32x8(x, first + pair), load_f32x8(x, first + half + pair)
        store_f32x8(x, first + pair, a * c - b * s)
        store_f32x8(x, first + half + pair, a * s + b * c)
    for pair in range(whole, half):
        c, s = load_f32(cos, row + pair), load_f32(sin, row + pair)
        a, b = load_f32(x, first + pair), load_f32(x, first + half + pair)
        store_f32(x, first + pair, a * c - b * s)
        store_f32(x, first + half + pair, a * s + b * c)


@row_operation(twin=rope_ref)
def rope(x, cos, sin, pairing, first, last):
    """Rotate the first rope_dim elements of each head of x (num_tokens, heads, head_dim) in place.

    cos, sin : (num_tokens, rope_dim / 2) from `rope_table`
    pairing : ADJACENT or HALVES
    """
    heads, head_dim, half = x.shape[1], x.shape[2], cos.shape[1]
    for head in range(first * heads, last * heads):
        row = head // heads * half
        if pairing == ADJACENT:
            rotate_adjacent(x, head * head_dim, cos, sin, row, half)
        else:
            rotate_halves(x, head * head_dim, cos, sin, row, half)
