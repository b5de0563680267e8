"""Tokens that a request may not draw: their logits become -inf before anything else is done to logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from densecore.config import GenerationConfig
from densecore.sampling.constraint import Constraint

__all__ = ["BadWords", "Restrictions", "Vocabulary"]


_INF_BITS = np.float32(-np.inf).view(np.int32)


def _never(token_ids: Sequence[int], position: int) -> bool:
    return False


@dataclass(frozen=True)
class Vocabulary:
    """What sampling a request needs to know of the meaning of tokens.

    Attributes
    ----------
    eog_ids : ids that end a generation.
    bad_words : sequences of ids that must not be completed.
    is_breaker : (token_ids, position) -> whether the token there breaks repetitions, for DRY.
    constraint : the grammar that the output follows, or None.
    """

    eog_ids: frozenset[int] = frozenset()
    bad_words: tuple[tuple[int, ...], ...] = ()
    is_breaker: Callable[[Sequence[int], int], bool] = _never
    constraint: Constraint | None = None


class BadWords:
    """Sequences of tokens that must not be completed."""

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        self._always: list[int] = []
        self._after: dict[int, list[tuple[list[int], int]]] = {}  # last id of the beginning -> (beginning, last id)
        for *beginning, last in sequences:
            if beginning:
                self._after.setdefault(beginning[-1], []).append((beginning, last))
            else:
                self._always.append(last)

    def banned(self, token_ids: Sequence[int]) -> list[int]:
        """Ids that would complete one after the tokens of prompt and output."""
        endings = self._after.get(token_ids[-1], ()) if token_ids else ()
        completed = [last for beginning, last in endings if token_ids[-len(beginning) :] == beginning]
        return self._always + completed


def forbid(logits: np.ndarray, forbidden: np.ndarray) -> None:
    """Set logits (n_vocab,) float32 to -inf where `forbidden` (n_vocab,) bool is True.

    In integers: an assignment under a mask branches at each token, which takes five times as long.
    """
    keep = forbidden.view(np.uint8).astype(np.int32) - 1  # all bits, or none
    bits = logits.view(np.int32)
    bits &= keep
    bits |= ~keep & _INF_BITS


class Restrictions:
    """What restricts one request in a way that depends on its text."""

    def __init__(self, config: GenerationConfig, vocabulary: Vocabulary) -> None:
        self._eog_ids = sorted(vocabulary.eog_ids)
        self._bad_words = BadWords(vocabulary.bad_words)
        self._min_tokens, self._ignore_eos = config.min_tokens, config.ignore_eos
        self._constraint = vocabulary.constraint

    def apply(self, logits: np.ndarray, token_ids: Sequence[int], num_output: int) -> None:
        """Set logits (n_vocab,) of what is not allowed to -inf. `token_ids` are prompt and output."""
        if self._constraint is not None:
            forbid(logits, self._constraint.forbidden(len(logits)))
        logits[self._bad_words.banned(token_ids)] = -np.inf
        if self._constraint is not None and (self._ignore_eos or num_output < self._min_tokens):
            self._forbid_end(logits)

    def _forbid_end(self, logits: np.ndarray) -> None:
        """No end of generation, unless the grammar leaves nothing else."""
        ends = logits[self._eog_ids]
        logits[self._eog_ids] = -np.inf
        if not (logits > -np.inf).any():
            logits[self._eog_ids] = ends
