"""Kind ``t5``: Unigram, the tokenizer of T5, XLM-RoBERTa and multilingual embedding models.

Text is normalized by a table of the file, spaces become U+2581, and of all ways to cover it by tokens the one with the
highest sum of scores is taken. Source: Kudo, "Subword Regularization" (2018), and the SentencePiece library.
"""

from __future__ import annotations

from tokenizers import Tokenizer as Pipeline
from tokenizers import models, normalizers

from densecore.exceptions import ModelLoadError
from densecore.tokenizer.backend import SPACE, GGUFBackend, SpaceRule, run
from densecore.tokenizer.llama import byte_tokens, check_lengths, token_scores
from densecore.tokenizer.vocabulary import TokenType, Vocabulary

__all__ = ["T5Backend"]

_HIDDEN = "\ufdd0"  # a code point that is no character: begins what no text may become


class T5Backend(GGUFBackend):
    """Unigram over a GGUF vocabulary.

    Raises ModelLoadError if scores or the unknown token are missing, a byte token is not written ``<0xNN>``, a token is
    too long, or the table for normalization is broken.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        if "unk" not in vocabulary.special:
            raise vocabulary.error("unknown_token_id", "is missing", "the id of a token")
        self._prefix = SPACE if vocabulary.add_space_prefix else ""
        self._squeeze = vocabulary.remove_extra_whitespaces
        self.space_rule = SpaceRule.SEGMENT if vocabulary.add_space_prefix else SpaceRule.NONE
        self._bytes = byte_tokens(vocabulary)
        check_lengths(vocabulary)
        self._normalizer = _normalizer(vocabulary)
        self._broken = _broken_table(vocabulary)
        self._pipeline = Pipeline(
            models.Unigram(
                _pieces(vocabulary, self._bytes), unk_id=vocabulary.special["unk"], byte_fallback=bool(self._bytes)
            )
        )

    def encode_words(self, text: str) -> list[int]:
        """Ids of `text`, normalized, after a space of its own if the vocabulary is made for one."""
        text = text.replace(_HIDDEN, "\ufffd")
        if self._normalizer is not None:
            text = _normalized(self._normalizer, text, self._broken)
        if self._squeeze:
            text = " ".join(text.split())
        return run(self._pipeline, self._prefix + text.replace(" ", SPACE)) if text else []

    def piece(self, token_id: int) -> bytes:
        """Bytes of a token; user-defined ones are written as they are."""
        if token_id in self._bytes:
            return bytes([self._bytes[token_id]])
        text = self._tokens[token_id]
        if self._types[token_id] != TokenType.USER_DEFINED:
            text = text.replace(SPACE, " ")
        return text.encode("utf-8", "replace")


def _pieces(vocabulary: Vocabulary, byte_ids: dict[int, int]) -> list[tuple[str, float]]:
    """Text and score by id. What no text may become has another text, and the lowest score of those that count."""
    scores = token_scores(vocabulary)
    visible = [
        vocabulary.ids.get(text) == token_id and (kind == TokenType.NORMAL or token_id in byte_ids)
        for token_id, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
    ]
    lowest = min((float(score) for score, shown in zip(scores, visible, strict=True) if shown), default=0.0)
    return [
        (vocabulary.tokens[token_id], float(scores[token_id])) if shown else (f"{_HIDDEN}{token_id}", lowest)
        for token_id, shown in enumerate(visible)
    ]


def _normalizer(vocabulary: Vocabulary) -> normalizers.Normalizer | None:
    """The table, checked as far as it can be: bytes of a trie after their number, u32, then texts that end in NUL."""
    table = vocabulary.charsmap
    if not table:
        return None
    n_trie = int.from_bytes(table[:4], "little")
    if n_trie % 4 or n_trie > len(table) - 4:  # else the library asks for so much memory that the process ends
        raise _broken_table(vocabulary)
    try:
        normalizer = normalizers.Precompiled(table)
    except Exception as error:  # the library has no narrower class
        raise _broken_table(vocabulary) from error
    _normalized(normalizer, "\uff21 e\u0301 \u2460\u00a0\U0001f600", _broken_table(vocabulary))
    return normalizer


def _normalized(normalizer: normalizers.Normalizer, text: str, broken: ModelLoadError) -> str:
    """`text` by the table, which if broken makes the library panic: that is no Exception, and would end a thread."""
    try:
        return normalizer.normalize_str(text)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
    raise broken


def _broken_table(vocabulary: Vocabulary) -> ModelLoadError:
    return vocabulary.error("precompiled_charsmap", "is broken", "a table made by SentencePiece")
