"""Ids to text, one at a time: what streaming shows, and what `Tokenizer.decode` is made of."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

from densecore.tokenizer.backend import SpaceRule

if TYPE_CHECKING:
    from densecore.tokenizer.tokenizer import Tokenizer

__all__ = ["IncrementalDetokenizer"]

_LONGEST_RESTS = 3  # bytes of an unfinished UTF-8 character, at most


class IncrementalDetokenizer:
    """Turns a stream of ids into text, without ever splitting a character.

    A token may hold part of a character; `push` keeps such bytes until the rest comes. All pieces together, with
    what `flush` returns, are the decoding of all ids; bytes that are not UTF-8 become U+FFFD.

    `prompt_ids` came before and are not repeated, but decide whether the first space belongs to the text and may
    have begun a character. With `skip_special` control tokens do not show. With `keep_first_space` a space that a
    text begins with counts as text, as it does for a grammar, which sees the tokens alone.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int] = (),
        *,
        skip_special: bool = True,
        keep_first_space: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        tail = self._tail(prompt_ids)
        self._at_start = tail == 0
        for token_id in prompt_ids[tail:]:
            self.push(token_id)
        self._at_start = self._at_start and not keep_first_space

    def push(self, token_id: int) -> str:
        """The text that is complete with this token; often a word, sometimes nothing.

        Raises InvalidConfigError for an id that is not in the vocabulary.
        """
        return self._decoder.decode(self._bytes(token_id))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that never was completed, or nothing."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text

    def _bytes(self, token_id: int) -> bytes:
        tokenizer = self._tokenizer
        data = tokenizer.token_bytes(token_id)
        if tokenizer.is_special(token_id):
            if tokenizer.space_rule is SpaceRule.SEGMENT:
                self._at_start = True
            if not (data or self._skip_special):
                data = tokenizer.token_text(token_id).encode()
        elif self._at_start and data:
            self._at_start = False
            if tokenizer.has_added_space(token_id):
                data = data[1:]
        return data

    def _tail(self, prompt_ids: Sequence[int]) -> int:
        """Where to start reading the prompt, to know all that matters about its end."""
        start, n_bytes = len(prompt_ids), 0
        while start > 0 and n_bytes <= _LONGEST_RESTS:
            start -= 1
            n_bytes += len(self._tokenizer.token_bytes(prompt_ids[start]))
        return start
