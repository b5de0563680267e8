"""DRY, "don't repeat yourself": a penalty for tokens that would lengthen a repetition.

Source: p-e-w, text-generation-webui's pull request 5677 (2024), and llama.cpp's 9702. Where the end of the text
occurred before, the token that followed it then gets ``multiplier * base ** (length - allowed_length)`` subtracted
from its logit, `length` being the longest such end. Sequence breakers end the comparison, so that what always
repeats, such as the frame of a chat's turns, is free. A token breaks a sequence if one of the given strings ends in its
text, wherever it began: a breaker may be spread over several tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from densecore.config import GenerationConfig

__all__ = ["Dry"]

_ENOUGH = 1e6  # a penalty that rules a token out: longer repetitions need not be told apart


class Dry:
    """The penalty of one request; `is_breaker` tells whether the token at a position of some tokens breaks them."""

    def __init__(self, config: GenerationConfig, is_breaker: Callable[[Sequence[int], int], bool]) -> None:
        self._multiplier, self._base = config.dry_multiplier, config.dry_base
        self._allowed_length, self._last_n = config.dry_allowed_length, config.dry_penalty_last_n
        self._is_breaker = is_breaker
        exponent = math.log(max(_ENOUGH / self._multiplier, 1.0)) / math.log(self._base) if self._base > 1 else 0
        self._longest = self._allowed_length + math.ceil(exponent)

    def penalties(self, token_ids: Sequence[int]) -> dict[int, float]:
        """Token id -> what to subtract from its logit, after the tokens of prompt and output."""
        seen = token_ids[-self._last_n :] if self._last_n > 0 else token_ids
        if self._last_n == 0 or not seen or self._is_breaker(seen, len(seen) - 1):
            return {}
        lengths: dict[int, int] = {}
        for position, length in zip(*self._matches(seen), strict=True):
            if not self._is_breaker(seen, int(position)):
                lengths[seen[position]] = int(length)  # lengths ascend, so the longest stays
        return {i: self._multiplier * self._base ** (n - self._allowed_length) for i, n in lengths.items()}

    def _matches(self, token_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Positions that followed earlier occurrences of the end of `token_ids`, and how long that is, ascending."""
        ids = np.array(token_ids, np.int64)
        ends = np.flatnonzero(ids[:-1] == ids[-1])  # positions at which a match ends
        lengths = np.ones(len(ends), np.int64)
        alive = np.arange(len(ends))
        for length in range(1, min(self._longest, len(ids))):
            previous = token_ids[-1 - length]
            if self._is_breaker(token_ids, len(token_ids) - 1 - length):
                break
            places = ends[alive] - length
            alive = alive[(places >= 0) & (ids[places] == previous)]  # places below 0 wrap around: harmless
            if not alive.size:
                break
            lengths[alive] += 1
        long_enough = lengths >= self._allowed_length
        order = np.argsort(lengths[long_enough], kind="stable")
        return ends[long_enough][order] + 1, lengths[long_enough][order]
