"""The probability mass of each block of tokens, found while the output product's results are still in the CPU's cache.

To draw by temperature alone, or with top-p, the weights of all tokens have to be summed: 2**((logit - top) * scale),
where `scale` stands for log2(e) / temperature. The highest logit of all is not known while they are made, but that of
their own block is (peaks.py). So the *mass* of a block is relative to its own peak, 1 to BLOCK, and whoever needs the
sum multiplies some thousand masses, not all tokens' weights: see sampling_blocks.py.

The same eight lanes sum the same tokens wherever it is done. So a mass has the same bits on every machine, with any
number of threads, and whether the product or sampling finds it.
"""

from __future__ import annotations

import math

import numpy as np

from .cache import inlined
from .exp import exp2_or_zero_f32x8
from .peaks import BLOCK, num_blocks
from .plan import range_operation
from .sampling_order import INF_KEY, score_of
from .simd import as_f32, as_i32, f32x8, fma, load_f32x8, local_array, minimum, store_f32x8, sum_f32x8

__all__ = ["NO_MASSES", "block_masses", "halvings_per_logit"]

NO_MASSES = np.empty(0, np.float32)  # where they are not known

_LANES = 8
_FARTHEST = np.float32(127)  # octaves below the peak: there weights are 0, as those of masked tokens must be
_MOST = 1024  # blocks in a piece, at most, if nothing goes before


def halvings_per_logit(temperature: float) -> float:
    """log2(e) / temperature: how often the probability halves a logit, kept finite so that 0 times it is 0."""
    return min(math.log2(math.e) / temperature, 3e38)


@inlined
def weight_octet(scores, first, peak, scale):
    """Weights, relative to the score `peak`, of scores[first : first + 8] in the lanes of a vector; -inf weighs 0."""
    return exp2_or_zero_f32x8((load_f32x8(scores, first) - peak) * scale)


@inlined
def mass_of(scores, first, peak, scale):
    """Sum of the weights of the BLOCK scores from `first` on."""
    mass = f32x8(np.float32(0))
    for i in range(first, first + BLOCK, _LANES):
        mass = mass + weight_octet(scores, i, peak, scale)
    return sum_f32x8(mass)


@inlined
def mass_between(scores, first, peak, scale, low, high):
    """Sum of the weights of those above `low` and below `high`: never more than `mass_of`, as rounding is monotonic."""
    mass = f32x8(np.float32(0))
    for i in range(first, first + BLOCK, _LANES):
        octet = load_f32x8(scores, i)
        is_between = (as_i32(f32x8(low) - octet) & as_i32(octet - high)) >> 31  # all bits or none
        mass = mass + as_f32(as_i32(weight_octet(scores, i, peak, scale)) & is_between)
    return sum_f32x8(mass)


@inlined
def moment_of(scores, first, peak, scale):
    """Sum of weight times octaves below `peak`."""
    moment = f32x8(np.float32(0))
    for i in range(first, first + BLOCK, _LANES):
        octaves = minimum(f32x8(_FARTHEST), (f32x8(peak) - load_f32x8(scores, i)) * scale)  # finite where masked
        moment = fma(octaves, weight_octet(scores, i, peak, scale), moment)
    return sum_f32x8(moment)


@inlined
def weigh_scores(scores, peak, scale, weights):
    """The weights (BLOCK,) float32 of scores (BLOCK,)."""
    for i in range(0, BLOCK, _LANES):
        store_f32x8(weights, i, weight_octet(scores, i, peak, scale))


@inlined
def mass_of_block(logits, block, peak_key, scale):
    """Mass of a block of logits (n_vocab,) whose highest key is `peak_key`; 0 if all of it is masked."""
    if peak_key == -INF_KEY:
        return np.float32(0)
    first = block * BLOCK
    if first + BLOCK <= logits.shape[0]:
        return mass_of(logits, first, score_of(peak_key), scale)
    tail = local_array(np.float32, BLOCK)
    for i in range(BLOCK):
        tail[i] = logits[first + i] if first + i < logits.shape[0] else np.float32(-np.inf)
    return mass_of(tail, 0, score_of(peak_key), scale)


def block_masses_ref(logits: np.ndarray, peaks: np.ndarray, scales: np.ndarray, masses: np.ndarray) -> None:
    """Twin of `block_masses`, in float64."""
    n_blocks = num_blocks(logits.shape[1])
    for row in np.flatnonzero(scales):
        padded = np.full(n_blocks * BLOCK, -np.inf)
        padded[: logits.shape[1]] = logits[row]
        scores = padded.reshape(n_blocks, BLOCK)
        highest = scores.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", over="ignore"):  # masked blocks, whose weights are NaN; tiny temperatures
            weights = np.exp2((scores - highest) * np.float64(scales[row]))
        masses[row] = np.where(highest > -np.inf, weights, 0).sum(axis=1)


@range_operation(
    tasks=lambda logits, peaks, *_: peaks.shape[1] if peaks.size else 0,
    together=lambda logits, peaks, *_: max(1, _MOST // max(1, peaks.shape[0])),
    twin=block_masses_ref,
)
def block_masses(logits, peaks, scales, masses, first, last):
    """masses (num_rows, num_blocks) float32 = those of each block of logits (num_rows, n_vocab), given their peaks.

    scales (num_rows,) float32: log2(e) / temperature, see `halvings_per_logit`, or 0 where no masses are wanted. Those
    of a block with NaN or +inf are undefined.
    """
    for row in range(peaks.shape[0]):
        if scales[row] > 0:
            for block in range(first, last):
                masses[row, block] = mass_of_block(logits[row], block, peaks[row, block], scales[row])
