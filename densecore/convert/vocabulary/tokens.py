"""The list of tokens: texts, types, and places that nobody uses."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from densecore.convert.vocabulary.source import TokenizerSource
from densecore.gguf.errors import describe
from densecore.tokenizer.backend import SPACE
from densecore.tokenizer.vocabulary import TokenType

__all__ = ["TokenList", "looks_special", "model_tokens"]

# Tokens of structure that some checkpoints add without calling them special.
_SPECIAL_TEXTS = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
_SPECIAL_FORM = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>", re.DOTALL)


@dataclass
class TokenList:
    """Texts and types by id, as they grow."""

    texts: list[str]  # (n_vocab,)
    types: list[int]  # (n_vocab,) of TokenType

    @classmethod
    def padding(cls, n_vocab: int) -> TokenList:
        """`n_vocab` tokens that nobody uses: what fills up embeddings that are larger than the vocabulary."""
        return cls([f"[PAD{i}]" for i in range(n_vocab)], [int(TokenType.UNUSED)] * n_vocab)

    def put(self, token_id: int, text: str, kind: TokenType) -> None:
        """Set a token."""
        self.texts[token_id], self.types[token_id] = text, int(kind)

    def add(self, source: TokenizerSource) -> list[int]:
        """Set the tokens beside those of the model; returns their ids. Ids that the model lacks only warn."""
        ids = []
        for token in source.added:
            if not 0 <= token.token_id < len(self.texts):
                problem = f"token {describe(token.content)} has the id {token.token_id}"
                warnings.warn(
                    f"{source.folder}: {problem}, and the model has {len(self.texts)} tokens: it is left out",
                    RuntimeWarning,
                    stacklevel=2,
                )
                continue
            special = token.special or looks_special(token.content)
            text = token.content if special else token.content.replace(SPACE, " ")
            self.put(token.token_id, text, TokenType.CONTROL if special else TokenType.USER_DEFINED)
            ids.append(token.token_id)
        return ids


def looks_special(text: str) -> bool:
    """Whether a token is structure by the form of its text, as llama.cpp's converter judges it."""
    return text in _SPECIAL_TEXTS or _SPECIAL_FORM.fullmatch(text) is not None


def model_tokens(source: TokenizerSource) -> dict[str, int]:
    """Text to id in the vocabulary of ``tokenizer.json``; ModelLoadError unless ids are in range and unique."""
    vocab = source.model.get("vocab")
    if not isinstance(vocab, Mapping) or not vocab or not all(type(value) is int for value in vocab.values()):
        raise source.error("model.vocab", f"is {describe(vocab)}", "an object from text to id")
    lowest, highest = min(vocab.values()), max(vocab.values())
    if lowest < 0 or highest >= source.n_vocab or len(set(vocab.values())) < len(vocab):
        allowed = f"each id once, from 0 to {source.n_vocab - 1} by config.json's vocab_size"
        raise source.error("model.vocab", f"has {len(vocab)} tokens with ids {lowest} to {highest}", allowed)
    return dict(vocab)
