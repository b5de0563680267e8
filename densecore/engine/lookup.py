"""Guesses without a model: what followed the last tokens when they occurred before.

Texts repeat themselves: names, quotations, code that is edited. This is prompt lookup decoding (Saxena 2023,
https://github.com/apoorvumang/prompt-lookup-decoding), over prompt and output.
"""

from __future__ import annotations

__all__ = ["PromptLookup"]

LENGTHS = (3, 2)  # of the ends that are looked for: a longer one says more


class PromptLookup:
    """Where the n-grams of one sequence ended last. `propose` may be called as the sequence grows, or changes."""

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        self._num_indexed = 0

    def propose(self, token_ids: list[int], num_tokens: int) -> list[int]:
        """`num_tokens` tokens that may follow, or none.

        Where the earlier place is so near that fewer followed, what is between repeats.
        """
        self._index(token_ids)
        for length in LENGTHS:
            end = self._ends.get(tuple(token_ids[-length:]))
            if end is not None:
                period = len(token_ids) - end
                return [token_ids[end + i % period] for i in range(num_tokens)]
        return []

    def _index(self, token_ids: list[int]) -> None:
        """Take in the n-grams that end before the last token."""
        if token_ids is not self._token_ids:  # new, or its context was shifted
            self._token_ids, self._num_indexed = token_ids, 0
            self._ends.clear()
        for end in range(self._num_indexed, len(token_ids)):
            for length in LENGTHS:
                if length <= end:
                    self._ends[tuple(token_ids[end - length : end])] = end
        self._num_indexed = len(token_ids)
