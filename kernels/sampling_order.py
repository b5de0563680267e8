"""Tokens in order of their scores, and their probabilities as exact integers: what sampling is built of.

Three ideas make sampling cheap, and its result the same on every machine and at every vector width:

* **Scores as integers.** `order_key` maps a float32 to an int32 that sorts the same way. Maxima and counts of
  integers vectorise (a float maximum does not, for fear of NaN), and NaN sorts outside of the infinities, where
  one comparison finds it.
* **Probabilities as integers.** The *weight* of a token is ``exp((score - top) / temperature)`` in fixed point with
  40 fractional bits, so that the most probable token has 2**40. Sums of integers are exact in any order. What is
  cut off is below 2**-40 of the top token's probability for each token.
* **One order.** Tokens are ordered by score, descending, and equal scores by id, ascending. `pack` puts both into
  one int64, so that sorting those sorts tokens.

A *key* is an `order_key`, a *mass* a sum of weights; `scale` stands for log2(e) / temperature, in halvings of the
probability a logit.
"""

from __future__ import annotations

import math

import numpy as np

from .cache import inlined

__all__ = ["BUCKETS_PER_OCTAVE", "INF_KEY", "LOWEST_KEY", "MAX_OCTAVES", "N_BUCKETS"]

INF_KEY = np.int32(0x7F800000)  # order_key of +inf; that of -inf is its negative
LOWEST_KEY = np.int32(1 - INF_KEY)  # order_key of the lowest finite score
MAX_OCTAVES = np.float32(41)  # a score this many halvings below the top has weight 0
BUCKETS_PER_OCTAVE = 64  # resolution of the histogram: neighbouring buckets differ by 1.1 % in probability
N_BUCKETS = int(MAX_OCTAVES) * BUCKETS_PER_OCTAVE + 1

_INT32_MIN = np.int32(-(2**31))
# 2**-f on [0, 1) as a polynomial that is exactly 1 at 0; least maximal relative error, 8.4e-8
_C5, _C4, _C3, _C2, _C1, _C0 = (
    np.float32(c) for c in (-0.0009449035, 0.009205798, -0.055297358, 0.24018014, -0.6931437, 1.0)
)


@inlined
def order_key(score):
    """int32 that sorts like the float32 `score`: its sign and magnitude as two's complement; -0.0 is 0.0."""
    bits = np.float32(score).view(np.int32)
    return bits if bits >= 0 else np.int32(_INT32_MIN - bits)


@inlined
def score_of(key):
    """The float32 of which the int32 `key` is the `order_key`."""
    return np.int32(key if key >= 0 else _INT32_MIN - key).view(np.float32)


@inlined
def octaves_below(key, top, scale):
    """How often the probability halves from the score `top` down to that of `key`, at most MAX_OCTAVES."""
    octaves = (top - score_of(key)) * scale
    return octaves if octaves < MAX_OCTAVES else MAX_OCTAVES


@inlined
def fraction_of(octaves):
    """2**-f of the fractional part f, as uint32 with 30 fractional bits.

    Plain float32 multiplications and additions, never contracted: the same bits on every CPU.
    """
    f = octaves - np.float32(np.int32(octaves))
    power = ((((_C5 * f + _C4) * f + _C3) * f + _C2) * f + _C1) * f + _C0
    return np.uint32(np.int32(power * np.float32(2**30)))


@inlined
def bucket_of(octaves):
    """Bucket of the histogram, uint16: never lower for a lower score."""
    return np.uint16(np.int32(octaves * np.float32(BUCKETS_PER_OCTAVE)))


@inlined
def halvings_of(octaves):
    """The whole octaves, uint32."""
    return np.uint32(np.int32(octaves))


@inlined
def weight_of(fraction, halvings):
    """Weight, int64 with 40 fractional bits: the fraction, halved by the whole octaves."""
    return np.int64(np.uint64(fraction) << np.uint64(10) >> np.uint64(halvings))


@inlined
def pack(key, token_id):
    """int64 that sorts tokens: key descending, then id ascending."""
    return -np.int64(key) << 32 | token_id


@inlined
def packed_key(packed):
    """Key of a packed token."""
    return np.int32(-(packed >> 32))


@inlined
def kth_largest(keys, k, low, high):
    """A threshold that k to 2 k of `keys` (n,) reach, or `low` where fewer than k reach that.

    Bisects between `low` and `high`, none of `keys` being above `high`. Needs no sort: each step counts in one
    vectorised pass. More than 2 k may reach it where keys are equal, never fewer than k.
    """
    low, high = np.int64(low), np.int64(high)
    while low < high:
        middle = np.int32((low + high + 1) >> 1)
        count = np.int32(0)
        for i in range(keys.shape[0]):
            count += np.int32(keys[i] >= middle)
        if count < k:
            high = np.int64(middle) - 1
        else:
            low = np.int64(middle)
            if count <= 2 * k:
                break
    return np.int32(low)


@inlined
def sort(values, n):
    """Sort values[:n], ascending, in place (Shell 1959, with gaps that shrink by 5 / 11).

    Chosen for its length: it compiles in a fifth of the time that NumPy's sort takes, and sorts some hundred
    values in microseconds.
    """
    gap = n
    while gap > 1:
        gap = 5 * gap // 11 if gap > 2 else 1
        for i in range(gap, n):
            value = values[i]
            j = i
            while j >= gap and values[j - gap] > value:
                values[j] = values[j - gap]
                j -= gap
            values[j] = value


@inlined
def key_below(top, distance):
    """Key of the score `distance` logits below `top`, or of the lowest finite score where that is higher."""
    key = order_key(np.float32(np.float64(top) - distance))
    return key if key > LOWEST_KEY else LOWEST_KEY


@inlined(inline="always")
def nucleus_mass(top_p, total):
    """The least mass that makes up a fraction `top_p` of `total`; float64 may round above `total` itself."""
    return min(np.int64(math.ceil(top_p * total)), total)


@inlined(inline="always")
def share_of_mass(u, mass):
    """The fraction u in [0, 1) of `mass`: an integer in [0, mass)."""
    return min(np.int64(u * mass), mass - 1)


@inlined
def pass_mass(weights, mass, target):
    """Where the running sum of `weights`, which starts from `mass`, passes `target`; and the sum there."""
    position = 0
    mass += weights[0]
    while mass <= target:
        position += 1
        mass += weights[position]
    return position, mass
