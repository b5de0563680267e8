"""Kind ``bert``: WordPiece. GGUF files mark what starts a word by U+2581, checkpoints what continues one by ``##``."""

from __future__ import annotations

from densecore.convert.vocabulary.source import TokenizerSource, steps
from densecore.convert.vocabulary.special import Pairs
from densecore.convert.vocabulary.tokens import TokenList, model_tokens
from densecore.gguf.types import ValueType
from densecore.tokenizer.backend import SPACE
from densecore.tokenizer.vocabulary import TokenType

__all__ = ["wordpiece_pairs"]

CONTINUES = "##"


def wordpiece_pairs(source: TokenizerSource) -> Pairs:
    """The keys of a WordPiece vocabulary."""
    tokens = TokenList.padding(source.n_vocab)
    for text, token_id in model_tokens(source).items():
        piece = text.removeprefix(CONTINUES) if text.startswith(CONTINUES) else SPACE + text
        tokens.put(token_id, piece, TokenType.NORMAL)
    tokens.add(source)
    yield "tokenizer.ggml.token_type_count", source.config.integer("type_vocab_size", default=1), None
    yield "tokenizer.ggml.model", "bert", None
    yield "tokenizer.ggml.pre", "default", None
    yield "tokenizer.ggml.tokens", tokens.texts, None
    yield "tokenizer.ggml.token_type", tokens.types, ValueType.INT32
    for step in steps(source.description, "normalizer"):
        if step.get("type") == "BertNormalizer":
            lowercase = bool(step.get("lowercase", True))
            strip = step.get("strip_accents")
            yield "tokenizer.ggml.normalizer.lowercase", lowercase, None
            yield "tokenizer.ggml.normalizer.strip_accents", lowercase if strip is None else bool(strip), None
