"""Samplers for requests: what a request's settings mean for the model's vocabulary."""

from __future__ import annotations

import functools
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

from densecore.config import GenerationConfig
from densecore.exceptions import InvalidConfigError
from densecore.sampling import Constraint, GrammarCompiler, Sampler, TokenTable, Vocabulary
from densecore.tokenizer import Tokenizer

__all__ = ["SamplerFactory", "spell"]


class SamplerFactory:
    """Makes the samplers of one engine. Any thread may use it; grammars are compiled in the caller's time."""

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        self._tokenizer, self._n_vocab = tokenizer, n_vocab
        self._grammars = GrammarCompiler(functools.partial(token_table, tokenizer, n_vocab))

    def create(self, config: GenerationConfig, prompt_ids: SequenceOf[int]) -> Sampler:
        """The sampler of a request.

        Raises InvalidConfigError for a grammar that cannot be used, and for ids outside of the vocabulary.
        """
        vocabulary = Vocabulary(
            eog_ids=frozenset(i for i in self._tokenizer.eog_ids if i < self._n_vocab),
            bad_words=self._bad_words(config),
            is_breaker=self._breaker(tuple(config.dry_sequence_breakers or ())),
            constraint=self.constraint(config),
        )
        return Sampler(config, self._n_vocab, prompt_ids, vocabulary=vocabulary)

    def constraint(self, config: GenerationConfig) -> Constraint | None:
        """What holds the output to the structure that a request asks for, at its beginning."""
        return self._grammars.constraint(*config.structure) if config.structure else None

    def _bad_words(self, config: GenerationConfig) -> tuple[tuple[int, ...], ...]:
        """Sequences of ids: a text is meant at the start of a word too, with the space that tokens then begin with."""
        found: dict[tuple[int, ...], None] = {}
        for word in config.bad_words or ():
            if isinstance(word, str):
                spelled = [tuple(spell(self._tokenizer, text)) for text in (word, " " + word.lstrip(" "))]
            else:
                spelled = [tuple(word)]
            found |= dict.fromkeys(filter(None, spelled))
        for ids in found:
            self._check(ids)
        return tuple(found)

    def _check(self, ids: SequenceOf[int]) -> None:
        for token_id in ids:
            if not 0 <= token_id < self._n_vocab:
                raise InvalidConfigError(
                    f"bad_words has the token id {token_id}, but the vocabulary's ids are 0 to {self._n_vocab - 1}"
                )

    def _breaker(self, texts: tuple[str, ...]) -> Callable[[SequenceOf[int], int], bool]:
        """Whether one of the texts ends in the token at a position, which may be far behind where it began."""
        parts = [text.encode("utf-8", "replace") for text in texts]
        last_bytes = {part[-1] for part in parts}
        room = max(map(len, parts), default=1) - 1  # that a text may begin before the token
        token_bytes = self._tokenizer.token_bytes

        def is_breaker(token_ids: SequenceOf[int], position: int) -> bool:
            data = token_bytes(token_ids[position])
            if last_bytes.isdisjoint(data):
                return False
            before = b""
            while position > 0 and len(before) < room:
                position -= 1
                before = token_bytes(token_ids[position]) + before
            text = before + data
            return any(text.find(part, max(0, len(before) + 1 - len(part))) >= 0 for part in parts)

        return is_breaker


def token_table(tokenizer: Tokenizer, n_vocab: int) -> TokenTable:
    """The first `n_vocab` tokens for grammars: control tokens, and all that end a generation, are no text."""
    tokens = [tokenizer.token_bytes(token_id) for token_id in range(n_vocab)]
    special = [i for i, data in enumerate(tokens) if not data or i in tokenizer.eog_ids]
    for token_id in special:
        tokens[token_id] = tokenizer.token_text(token_id).encode("utf-8", "replace")
    return TokenTable(
        tokens=tokens,
        special_ids=special,
        eog_ids=frozenset(i for i in tokenizer.eog_ids if i < n_vocab),
        bos_id=tokenizer.bos_id,
        encode=functools.partial(spell, tokenizer),
    )


def spell(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of `text` in the middle of an output, empty if no tokens say exactly that.

    Encoding may add a space at a text's start, which these lack: a line break before the text takes it, and is cut off
    again.
    """
    wanted = text.encode("utf-8", "replace")
    for before in ("", "\n"):
        ids = tokenizer.encode(before + text)
        sizes = [len(tokenizer.token_bytes(token_id)) for token_id in ids]
        while sum(sizes) > len(wanted):
            del ids[0], sizes[0]
        if b"".join(map(tokenizer.token_bytes, ids)) == wanted:
            return ids
    return []
