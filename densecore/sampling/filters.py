"""Filters that few requests use, in numpy: which tokens are left of those that a request may draw from.

`Filters.draw` takes the place of the fast path of densecore.kernels.sampling for these requests. Its steps, each on
what the one before it kept, renormalised: top-n-sigma, temperature, top-k, typical-p, top-p, min-p, XTC, the draw.
Top-k, typical-p, top-p and min-p keep what the fast path keeps, which knows typical-p where it is alone, and mirostat.

Sources:

* top-n-sigma: Tang et al., "Top-nσ: Not All Logits Are You Need" (2024). A logit is kept within n standard deviations
  of the highest; temperature cannot change which these are.
* typical-p: Meister et al., "Locally Typical Sampling" (2022). Tokens are kept whose surprise is nearest to the mean.
* XTC, "exclude top choices": p-e-w, text-generation-webui's pull request 6335 (2024), and llama.cpp's 9742. With a
  certain probability all tokens above a threshold are dropped but the least probable of them.
* mirostat 2: Basu et al., "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity" (2020), in
  llama.cpp's reading: the surprise that is fed back is that of the distribution that was drawn from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from densecore.config import GenerationConfig

__all__ = ["Filters", "Mirostat", "candidates", "min_p", "top_n_sigma", "top_p", "typical_p", "xtc"]

_FIRST_TYPICAL = 1024  # tokens to sort first: mostly enough
_MAX_OCTAVES = 41  # tokens whose probability is this many halvings below the top are never drawn, as in the kernel


def candidates(scores: np.ndarray, temperature: float, top_k: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the tokens that count, in order (probability descending, then id), and probabilities that sum to 1.

    scores : (n_vocab,) float32; temperature is above 0; top_k of 0 is off
    """
    top = float(scores.max())
    floor = top - _MAX_OCTAVES * math.log(2) * temperature
    if 0 < top_k < len(scores):
        floor = max(floor, float(np.partition(scores, -top_k)[-top_k]))
    ids = _in_order(scores, np.flatnonzero((scores >= floor) & (scores > -np.inf)))[: top_k or None]
    with np.errstate(over="ignore"):  # tiny temperatures: exp(-inf) is the right answer
        weights = np.exp((scores[ids].astype(np.float64) - top) / temperature)
    return ids, weights / weights.sum()


def _in_order(scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """`ids` by their scores, descending, then by id: sorted as integers, which is several times as fast."""
    bits = scores[ids].view(np.int32).astype(np.int64)
    keys = np.where(bits >= 0, bits, -(2**31) - bits)  # order_key of densecore.kernels.sampling_order
    return np.sort(-keys << 32 | ids) & 0xFFFFFFFF


def top_n_sigma(scores: np.ndarray, n: float) -> np.ndarray:
    """A copy of scores (n_vocab,) in which all further than n standard deviations below the highest are -inf."""
    finite = scores[scores > -np.inf].astype(np.float64)
    return np.where(scores >= finite.max() - n * finite.std(), scores, np.float32(-np.inf))


def typical_p(probabilities: np.ndarray, mass: float) -> np.ndarray:
    """Positions, ascending, of the fewest tokens of most typical surprise whose probabilities sum to `mass`."""
    surprise = -np.log(np.maximum(probabilities, 1e-300))
    distance = np.abs(surprise - (probabilities * surprise).sum())
    count = _FIRST_TYPICAL
    while True:
        nearest = (
            np.sort(np.argpartition(distance, count)[:count]) if count < len(distance) else np.arange(len(distance))
        )
        order = nearest[np.argsort(distance[nearest], kind="stable")]
        if count >= len(distance) or probabilities[order].sum() >= mass:
            return np.sort(order[: _count(probabilities[order], mass)])
        count *= 8


def top_p(probabilities: np.ndarray, mass: float) -> int:
    """How many of the most probable tokens sum to `mass`."""
    return _count(probabilities, mass)


def min_p(probabilities: np.ndarray, fraction: float) -> int:
    """How many tokens have this fraction of the probability of the first, the most probable."""
    return max(1, int(np.count_nonzero(probabilities >= fraction * probabilities[0])))


def xtc(probabilities: np.ndarray, threshold: float) -> int:
    """How many of the most probable tokens to leave out: all that reach the threshold but the last of them."""
    return max(0, int(np.count_nonzero(probabilities >= threshold)) - 1)


def _count(probabilities: np.ndarray, mass: float) -> int:
    """Length of the shortest beginning with at least this sum, or of the whole."""
    return min(1 + int(np.searchsorted(np.cumsum(probabilities), mass)), len(probabilities))


def _position(probabilities: np.ndarray, u: float) -> int:
    """Where the running sum passes the fraction u of the whole."""
    sums = np.cumsum(probabilities)
    return min(int(np.searchsorted(sums, u * sums[-1], side="right")), len(sums) - 1)


@dataclass(frozen=True)
class Filters:
    """The filters of a request, in their order."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float

    @classmethod
    def of(cls, config: GenerationConfig) -> Filters | None:
        """The filters that a request asks for; None where the fast path knows them all."""
        if config.typical_p == 1 and config.top_n_sigma == 0 and config.xtc_probability == 0:
            return None
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})

    def is_typical_p_alone(self, n_vocab: int) -> bool:
        """Whether there is no other filter: then the fast path knows it."""
        top_k_is_off = not 0 < self.top_k < n_vocab
        return top_k_is_off and (self.top_p, self.min_p, self.top_n_sigma, self.xtc_probability) == (1, 0, 0, 0)

    def distribution(self, scores: np.ndarray, u: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Kept token ids, in order, and their probabilities; XTC acts if u in [0, 1) is below its probability."""
        if self.top_n_sigma > 0:
            scores = top_n_sigma(scores, self.top_n_sigma)
        ids, probabilities = candidates(scores, self.temperature, self.top_k)
        if self.typical_p < 1:
            kept = typical_p(probabilities, self.typical_p)
            ids, probabilities = ids[kept], _normalised(probabilities[kept])
        if self.top_p < 1:
            probabilities = _normalised(probabilities[: top_p(probabilities, self.top_p)])
        probabilities = _normalised(probabilities[: min_p(probabilities, self.min_p)])
        first = xtc(probabilities, self.xtc_threshold) if u < self.xtc_probability else 0
        return ids[first : len(probabilities)], _normalised(probabilities[first:])

    def draw(self, scores: np.ndarray, u: float, u_xtc: float) -> int:
        """A token id from scores (n_vocab,) float32; u and u_xtc in [0, 1) are the random numbers of this draw."""
        ids, probabilities = self.distribution(scores, u_xtc)
        return int(ids[_position(probabilities, u)])


def _normalised(probabilities: np.ndarray) -> np.ndarray:
    return probabilities / probabilities.sum()


class Mirostat:
    """Mirostat 2: a bound for the surprise of tokens, which follows that of what was drawn.

    Attributes
    ----------
    mu : the bound, in bits: tokens that are more surprising are left out.
    """

    def __init__(self, tau: float, eta: float) -> None:
        self.tau, self.eta = tau, eta
        self.mu = 2 * tau

    def learn(self, surprise: float) -> None:
        """Take note of the surprise, in bits, of a token in the distribution that it was drawn from."""
        self.mu -= self.eta * (surprise - self.tau)
