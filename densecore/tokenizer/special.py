"""Finds special tokens in text: what is cut out before a model of words sees the rest."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping

__all__ = ["SpecialTokens"]


class SpecialTokens:
    """A set of texts that are one token each, wherever they stand.

    Longer texts win over shorter ones that overlap them anywhere in the text, and of equally long ones the
    left; this is the order in which llama.cpp cuts. The work is bounded by the length of the text times
    that of the longest token.

    Parameters: `ids` maps text to id; `strip_left` and `strip_right` are ids that also take the white space on that
    side with them.
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        strip_left: frozenset[int] = frozenset(),
        strip_right: frozenset[int] = frozenset(),
    ) -> None:
        self._strip_left = strip_left
        self._strip_right = strip_right
        self._root: dict = {}  # a trie: character -> node; under None the id that ends here
        for text, token_id in ids.items():
            node = self._root
            for char in text:
                node = node.setdefault(char, {})
            node[None] = token_id
        firsts = "".join(re.escape(char) for char in self._root)
        self._first = re.compile(f"[{firsts}]") if firsts else None

    def split(self, text: str) -> Iterator[str | int]:
        """The parts of `text` from left to right: ids of special tokens, and non-empty text between them."""
        position = 0
        after: int | None = None
        for start, end, token_id in self._cuts(text):
            yield from self._between(text[position:start], after, token_id)
            yield token_id
            position, after = end, token_id
        yield from self._between(text[position:], after, None)

    def _between(self, text: str, left: int | None, right: int | None) -> Iterator[str]:
        if left in self._strip_right:
            text = text.lstrip(_SPACE)
        if right in self._strip_left:
            text = text.rstrip(_SPACE)
        if text:
            yield text

    def _cuts(self, text: str) -> list[tuple[int, int, int]]:
        """Spans (start, end, id) that do not overlap, in order of start."""
        starts = self._first.finditer(text) if self._first else ()
        heap = [found for match in starts if (found := self._longest(text, match.start(), len(text)))]
        heapq.heapify(heap)
        taken = bytearray(len(text))
        cuts = []
        while heap:
            length, start, token_id = heapq.heappop(heap)
            end = start - length
            # Taken spans are at least as long as this one: if one overlaps it, that one covers an end of it.
            if taken[start]:
                continue
            if taken[end - 1]:
                if shorter := self._longest(text, start, taken.index(1, start)):
                    heapq.heappush(heap, shorter)
                continue
            taken[start:end] = b"\1" * (end - start)
            cuts.append((start, end, token_id))
        return sorted(cuts)

    def _longest(self, text: str, start: int, limit: int) -> tuple[int, int, int] | None:
        """The longest token from `start` to `limit` at most, as (negative length, start, id): how a heap sorts."""
        found = None
        end = start
        node = self._root
        while end < limit and text[end] in node:
            node = node[text[end]]
            end += 1
            if None in node:
                found = (start - end, start, node[None])
        return found


_SPACE = " \t\n\v\f\r"
