"""What the kinds of GGUF vocabularies share: special tokens are cut out, the rest goes to `tokenizers`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import Protocol

from tokenizers import Tokenizer as Pipeline

from densecore.tokenizer.special import SpecialTokens
from densecore.tokenizer.vocabulary import TokenType, Vocabulary

__all__ = ["SPACE", "UTF8_BYTES", "Backend", "GGUFBackend", "SpaceRule", "name_takes_space", "run"]

SPACE = "\u2581"  # SentencePiece's sign for a space
UTF8_BYTES = tuple(byte for byte in range(0xF5) if byte not in (0xC0, 0xC1))  # what valid text is made of


class SpaceRule(Enum):
    """Which space at the start of the text is not text, but was added by encoding: decoding drops it."""

    NONE = "none"
    START = "start"  # before the first token
    SEGMENT = "segment"  # before the first token, and after each special one


class Backend(Protocol):
    """Turns text into ids and ids into bytes, for the class Tokenizer."""

    space_rule: SpaceRule

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """Ids of valid Unicode `text`."""

    def piece(self, token_id: int) -> bytes:
        """What a token that is text stands for."""


class GGUFBackend(ABC):
    """A Backend over the vocabulary of a GGUF file; subclasses know words."""

    space_rule = SpaceRule.NONE

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokens = vocabulary.tokens
        self._types = vocabulary.types
        self._always = _special_tokens(vocabulary, {TokenType.USER_DEFINED})
        parsed = {TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNKNOWN}
        self._parsed = _special_tokens(vocabulary, parsed)

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """Ids of `text`, where user-defined tokens are one token each, and with `parse_special` control tokens too."""
        ids: list[int] = []
        for part in (self._parsed if parse_special else self._always).split(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids.extend(self.encode_words(part))
        return ids

    @abstractmethod
    def encode_words(self, text: str) -> list[int]:
        """Ids of non-empty text that holds no special token."""

    @abstractmethod
    def piece(self, token_id: int) -> bytes: ...


def _special_tokens(vocabulary: Vocabulary, types: set[TokenType]) -> SpecialTokens:
    ids = {text: token_id for text, token_id in vocabulary.ids.items() if vocabulary.types[token_id] in types}
    return SpecialTokens(ids, _strip_left(vocabulary, ids), _strip_right(vocabulary, ids))


def _strip_left(vocabulary: Vocabulary, ids: dict[str, int]) -> frozenset[int]:
    """In some embedding models the mask takes the space before it."""
    mask = {"jina-v2-de": "<mask>", "jina-v2-es": "<mask>", "jina-v2-code": "<mask>", "modern-bert": "[MASK]"}
    text = mask.get(vocabulary.pre)
    return frozenset({ids[text]} if text in ids else ())


def _strip_right(vocabulary: Vocabulary, ids: dict[str, int]) -> frozenset[int]:
    """Phi-3's tokens take the white space after them. Its files do not say so; llama.cpp goes by the name too."""
    if not name_takes_space(vocabulary.name):
        return frozenset()
    return frozenset(ids.values()) - {ids.get(text, -1) for text in ("<unk>", "<s>", "<|endoftext|>")}


def name_takes_space(name: str) -> bool:
    """Whether special tokens of a model of this name (``general.name``) take the white space after them."""
    return "phi-3" in name.lower() or "phi3" in name.lower()


def run(pipeline: Pipeline, text: str) -> list[int]:
    """Ids that `pipeline` gives for `text`."""
    return pipeline.encode(text, add_special_tokens=False).ids
