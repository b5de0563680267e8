"""Pooling: from the hidden states of a text's tokens to one vector of the text (Reimers and Gurevych 2019)."""

from __future__ import annotations

import numpy as np

from densecore.gguf import Metadata

__all__ = ["KINDS", "RANK", "Pooling", "file_pooling"]

KINDS = ("mean", "cls", "last", "max")
RANK = "rank"  # no vector, but a score of a query and a document: see `classifier`
_FILE_KINDS = ("none", "mean", "cls", "last", RANK)  # by their numbers in files


def file_pooling(metadata: Metadata) -> str | None:
    """What the file's key ``pooling_type`` says: one of `KINDS`, or `RANK`; None if it says nothing."""
    arch = metadata.string("general.architecture")
    number = metadata.integer(f"{arch}.pooling_type", 0, minimum=0, maximum=len(_FILE_KINDS) - 1)
    return _FILE_KINDS[number] if number else None


class Pooling:
    """Pools the hidden states of one text, of which the first rows may come before the others are computed.

    mean : of all tokens, summed in float64 one after the other, so that it does not depend on how they come
    cls, last : the first token, the last one; max : the largest of each element over all tokens
    """

    def __init__(self, kind: str) -> None:
        assert kind in KINDS
        self.kind, self._num_tokens = kind, 0
        self._state = np.empty(0)

    def wanted(self, first: int, end: int, length: int) -> range:
        """Of the tokens `first` to `end` (excluded) of a text of this length, those whose hidden states are needed."""
        if self.kind == "cls":
            return range(first, min(end, 1))
        if self.kind == "last":
            return range(max(first, length - 1), end)
        return range(first, end)

    def add(self, hidden: np.ndarray, first: int) -> None:
        """The hidden states (num_tokens, dim) of the wanted tokens, of which `first` is the first: 0 begins anew."""
        if not len(hidden):
            return
        before = [self._state[None]] if first and self.kind in ("mean", "max") else []
        rows = np.concatenate([*before, hidden], dtype=np.float64)
        reduce = {"mean": np.add.reduce, "max": np.maximum.reduce}.get(self.kind, lambda x, axis: x[-1])
        self._state, self._num_tokens = reduce(rows, axis=0), first + len(hidden)

    @property
    def vector(self) -> np.ndarray:
        """The pooled vector, (dim,) float32."""
        divisor = self._num_tokens if self.kind == "mean" else 1
        return (self._state / divisor).astype(np.float32)
