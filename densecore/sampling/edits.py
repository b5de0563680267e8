"""Which tokens of a request have their logits changed: bias, what may not be drawn, what the penalties need to know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from densecore.exceptions import InvalidConfigError
from densecore.kernels.sampling import Edits
from densecore.kernels.sampling_rows import edit_addresses

__all__ = ["EditTable"]

_FIRST_CAPACITY = 64


class EditTable:
    """One row for each token that has a bias or was seen in prompt or output.

    A dense array of counts would cost as much as the vocabulary for each request, to load into the cache and to
    walk at each token; a request touches few tokens, so this table has a row for each of those alone. Rows are
    found through a dict, and the arrays grow by doubling: O(1) a token.

    Parameters
    ----------
    n_vocab : ids must be below this, or InvalidConfigError is raised.
    logit_bias : token id -> what is added to its logit.

    Attributes
    ----------
    edits : the rows, of which the first `len(self)` count.
    addresses : of the columns of `edits`; to ask numpy at each token would take longer than all else in Python.
    """

    def __init__(self, n_vocab: int, logit_bias: Mapping[int, float]) -> None:
        self.n_vocab = n_vocab
        self._logit_bias = logit_bias
        self._grow(None, max(_FIRST_CAPACITY, len(logit_bias)))
        self._rows: dict[int, int] = {}
        for token_id, bias in logit_bias.items():
            self._set_bias(token_id, "logit_bias", bias)

    def __len__(self) -> int:
        """Number of rows of `edits` that count."""
        return len(self._rows)

    def forbid(self, token_ids: Iterable[int]) -> None:
        """Mask tokens, until they are allowed again."""
        for token_id in token_ids:
            self._set_bias(token_id, "the vocabulary", -np.inf)

    def allow(self, token_ids: Iterable[int]) -> None:
        """Give tokens the bias that they had before they were forbidden."""
        for token_id in token_ids:
            self._set_bias(token_id, "the vocabulary", self._logit_bias.get(token_id, 0.0))

    def see_prompt(self, token_ids: Iterable[int]) -> None:
        """Take note of the prompt's tokens."""
        for token_id in dict.fromkeys(token_ids):
            row = self._row(token_id, "prompt_ids")
            self.edits.counts[row] = max(self.edits.counts[row], 0)

    def see_output(self, token_id: int) -> None:
        """Take note of one more token of the output."""
        row = self._row(token_id, "the output")
        self.edits.counts[row] = max(self.edits.counts[row], 0) + 1

    def _set_bias(self, token_id: int, origin: str, bias: float) -> None:
        row = self._row(token_id, origin)  # first: it may put larger arrays in the place of `edits`
        self.edits.bias[row] = bias

    def _grow(self, edits: Edits | None, capacity: int) -> None:
        self.edits = _grown(edits, capacity)
        self.addresses = edit_addresses(self.edits)

    def _row(self, token_id: int, origin: str) -> int:
        row = self._rows.get(token_id)
        if row is None:
            if not 0 <= token_id < self.n_vocab:
                raise InvalidConfigError(
                    f"{origin} has the token id {token_id}, but the vocabulary's ids are 0 to {self.n_vocab - 1}"
                )
            row = len(self._rows)
            if row == len(self.edits.ids):
                self._grow(self.edits, 2 * row)
            self.edits.ids[row] = token_id
            self._rows[token_id] = row
        return row


def _grown(edits: Edits | None, capacity: int) -> Edits:
    """Columns of `capacity` rows: those of `edits`, then rows that change nothing."""
    larger = Edits(np.zeros(capacity, np.int32), np.zeros(capacity), np.full(capacity, -1, np.int32))
    if edits is not None:
        for column, new in zip(edits, larger, strict=True):
            new[: len(column)] = column
    return larger
