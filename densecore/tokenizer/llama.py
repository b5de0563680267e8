"""Kind ``llama``: SentencePiece BPE, the tokenizer of Llama 2, Mistral and Gemma.

Spaces are written as U+2581 and pairs of neighbours are merged, best score of the result first, without any cut into
words. What the vocabulary lacks is written in bytes, ``<0xNN>``. Source: Kudo and Richardson, "SentencePiece"
(2018). GGUF files hold scores but no merges, so the merges are derived.
"""

from __future__ import annotations

import re
import warnings

import numpy as np
from tokenizers import Tokenizer as Pipeline
from tokenizers import models

from densecore.gguf.errors import describe
from densecore.tokenizer.backend import SPACE, UTF8_BYTES, GGUFBackend, SpaceRule, run
from densecore.tokenizer.vocabulary import TokenType, Vocabulary

__all__ = ["LlamaBackend", "byte_tokens", "check_lengths", "derive_merges", "token_scores"]

MAX_TOKEN_LENGTH = 256  # characters; bounds the derivation of merges, published tokens have up to 48
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class LlamaBackend(GGUFBackend):
    """SentencePiece BPE over a GGUF vocabulary.

    Raises ModelLoadError if scores are missing, a byte token is not written ``<0xNN>``, or a token is too long.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self._prefix = SPACE if vocabulary.add_space_prefix else ""
        self.space_rule = SpaceRule.SEGMENT if vocabulary.add_space_prefix else SpaceRule.NONE
        self._bytes = byte_tokens(vocabulary)
        check_lengths(vocabulary)
        # Control tokens stay out: no text may turn into them unless it is parsed for them.
        hidden = (TokenType.CONTROL, TokenType.UNKNOWN)
        words = {text: i for text, i in vocabulary.ids.items() if vocabulary.types[i] not in hidden}
        merges = derive_merges({t: i for t, i in words.items() if i not in self._bytes}, token_scores(vocabulary))
        unknown = vocabulary.special.get("unk")
        unk_token = vocabulary.tokens[unknown] or None if unknown is not None else None
        if unk_token is not None:
            words[unk_token] = vocabulary.ids[unk_token]
        _warn_of_missing(vocabulary, words)
        self._pipeline = Pipeline(
            models.BPE(words, merges, unk_token=unk_token, fuse_unk=True, byte_fallback=bool(self._bytes))
        )

    def encode_words(self, text: str) -> list[int]:
        """Ids of `text`, after a space of its own if the vocabulary is made for one."""
        return run(self._pipeline, self._prefix + text.replace(" ", SPACE))

    def piece(self, token_id: int) -> bytes:
        """Bytes of a token; user-defined ones are written as they are."""
        if token_id in self._bytes:
            return bytes([self._bytes[token_id]])
        text = self._tokens[token_id]
        if self._types[token_id] != TokenType.USER_DEFINED:
            text = text.replace(SPACE, " ")
        return text.encode("utf-8", "replace")


def derive_merges(words: dict[str, int], scores: np.ndarray) -> list[tuple[str, str]]:
    """All pairs of words that make a word, in the order in which they are merged.

    `words` maps text to id, `scores` has one score per id. Best score of the result first; of pairs that make the same
    word, the longest left part first, as in the published conversions. Two look-ups for each split of each word.
    """
    merges = []
    for text, token_id in words.items():
        score = float(scores[token_id])
        for cut in range(len(text) - 1, 0, -1):
            left = text[:cut]
            if left in words and (right := text[cut:]) in words:
                merges.append((score, left, right))
    merges.sort(key=lambda merge: -merge[0])
    return [(left, right) for _, left, right in merges]


def token_scores(vocabulary: Vocabulary) -> np.ndarray:
    """Scores (n_vocab,) float32; ModelLoadError if the file has none."""
    if vocabulary.scores is None:
        raise vocabulary.error("scores", "is missing", "a score for each token")
    return vocabulary.scores


def byte_tokens(vocabulary: Vocabulary) -> dict[int, int]:
    """Id to byte. Files of old typed these tokens as normal ones, so the text decides."""
    found = {}
    texts = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
    for token_id, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        match = _BYTE.fullmatch(text) if text.startswith("<0x") else None
        if match and kind not in texts:
            found[token_id] = int(match[1], 16)
        elif kind == TokenType.BYTE:
            problem = f"has the byte token {token_id}, written {describe(text)}"
            raise vocabulary.error("tokens", problem, "byte tokens <0x00> to <0xFF>")
    return found


def check_lengths(vocabulary: Vocabulary) -> None:
    """ModelLoadError for a token that is too long."""
    longest = max(range(len(vocabulary.tokens)), key=lambda i: len(vocabulary.tokens[i]))
    if len(vocabulary.tokens[longest]) > MAX_TOKEN_LENGTH:
        problem = f"has token {longest} of {len(vocabulary.tokens[longest])} characters"
        raise vocabulary.error("tokens", problem, f"tokens of up to {MAX_TOKEN_LENGTH} characters")


def _warn_of_missing(vocabulary: Vocabulary, words: dict[str, int]) -> None:
    needed = [SPACE, *(f"<0x{byte:02X}>" for byte in UTF8_BYTES)]
    missing = [text for text in needed if text not in words]
    if missing:
        problem = f"lacks {len(missing)} of the space and the byte tokens, such as {missing[0]!r}"
        error = vocabulary.error("tokens", problem, "all of them, or some text is lost")
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
