"""One request's grammar as it goes: which tokens may come next."""

from __future__ import annotations

import functools
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from densecore.exceptions import InferenceError

if TYPE_CHECKING:
    from llguidance import LLMatcher

__all__ = ["Constraint", "explain"]

_NUM_THREADS = 2


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Threads for masks: computing one holds no interpreter lock, so it runs beside the model's next step."""
    return ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="densecore-grammar")


class Constraint:
    """Follows the output of one request through its grammar.

    The mask for the next token is computed in another thread as soon as a token is known, while the model computes
    that token's successor.

    Parameters
    ----------
    matcher : at the beginning of its grammar; it is this object's from now on.
    eog_ids : the ids that end a generation; the grammar allows them wherever it may end. If there are none, the
        output ends where nothing can follow.
    """

    def __init__(self, matcher: LLMatcher, eog_ids: frozenset[int]) -> None:
        self._matcher, self._eog_ids = matcher, eog_ids
        self.is_complete = False  # whether nothing can follow but an end of generation
        self._mask: Future[bytes] = _pool().submit(matcher.compute_bitmask)

    def forbidden(self, n_vocab: int) -> np.ndarray:
        """(n_vocab,) bool: which tokens must not come next.

        Raises InferenceError if the grammar became too complex on the way.
        """
        mask = self._mask.result()
        self._check()
        return np.unpackbits(np.frombuffer(mask, np.uint8), count=n_vocab, bitorder="little") == 0

    def accept(self, token_id: int) -> None:
        """Go on by a token. Raises InferenceError if the grammar does not allow it."""
        self._mask.result()  # a matcher is one thread's at a time
        self._matcher.consume_token(token_id)
        self._check()
        self.is_complete = token_id in self._eog_ids or self._matcher.is_stopped()
        if self.is_complete:
            return
        self._mask = _pool().submit(self._matcher.compute_bitmask)
        if not self._eog_ids:  # nobody can draw the end: see whether it is all that is left
            allowed = int.from_bytes(self._mask.result(), "little").bit_count()
            self.is_complete = allowed == 1 and self._matcher.is_accepting()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InferenceError(f"the grammar cannot go on: {explain(self._matcher.get_error())}")


def explain(message: str) -> str:
    """An error of llguidance in one line."""
    return " ".join(message.replace("<non-verbose/>", "").split())[:300]
