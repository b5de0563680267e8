"""Kind ``llama``: SentencePiece BPE. Files hold a score for each token, by which pairs are merged.

Scores stand in ``tokenizer.model``. With ``tokenizer.json`` alone they follow from the list of merges: the earlier a
token is first made, the higher its score.
"""

from __future__ import annotations

import re

import numpy as np

from densecore.convert.vocabulary.bpe import merge_list
from densecore.convert.vocabulary.sentencepiece import SentencePieceModel
from densecore.convert.vocabulary.source import TokenizerSource, steps
from densecore.convert.vocabulary.special import Pairs
from densecore.convert.vocabulary.tokens import TokenList, model_tokens
from densecore.gguf.types import ValueType
from densecore.tokenizer.vocabulary import TokenType

__all__ = ["put_pieces", "space_prefix", "spm_pairs"]

_BYTE = re.compile("<0x[0-9A-F]{2}>")
ADDED_SCORE, PADDING_SCORE = -1000.0, -10000.0


def spm_pairs(source: TokenizerSource, model: SentencePieceModel | None, prefix: bool | None) -> Pairs:
    """The keys of a SentencePiece BPE vocabulary; `prefix` says whether a space is added, where that is known."""
    tokens = TokenList.padding(source.n_vocab)
    scores = np.full(source.n_vocab, PADDING_SCORE, np.float32)
    if model is not None:
        put_pieces(source, model, tokens, scores)
    else:
        _put_json(source, tokens, scores)
    unknown = [i for i, kind in enumerate(tokens.types) if kind == TokenType.UNKNOWN]
    scores[tokens.add(source)] = ADDED_SCORE
    for token_id in unknown:
        tokens.types[token_id] = int(TokenType.UNKNOWN)
    yield "tokenizer.ggml.model", "llama", None
    yield "tokenizer.ggml.pre", "default", None
    yield "tokenizer.ggml.tokens", tokens.texts, None
    yield "tokenizer.ggml.scores", scores, None
    yield "tokenizer.ggml.token_type", tokens.types, ValueType.INT32
    if prefix is None:
        prefix = model.add_dummy_prefix if model is not None and not source.description else space_prefix(source)
    yield "tokenizer.ggml.add_space_prefix", prefix, None


def put_pieces(source: TokenizerSource, model: SentencePieceModel, tokens: TokenList, scores: np.ndarray) -> None:
    """Set the tokens of a tokenizer.model; ModelLoadError if the embedding has fewer rows."""
    if len(model.pieces) > source.n_vocab:
        allowed = f"at most {source.n_vocab}, by config.json's vocab_size"
        raise source.error("tokenizer.model", f"has {len(model.pieces)} pieces", allowed)
    for token_id, (text, score, kind) in enumerate(model.pieces):
        tokens.put(token_id, text, TokenType(kind))
        scores[token_id] = score


def space_prefix(source: TokenizerSource) -> bool:
    """Whether the tokenizer puts a space in front of a text."""
    for step in steps(source.description, "normalizer"):
        if step.get("type") == "Prepend":
            return True
    for step in steps(source.description, "pre_tokenizer"):
        if step.get("type") == "Metaspace":
            default = "always" if step.get("add_prefix_space", True) else "never"
            return step.get("prepend_scheme", default) != "never"
    return False


def _put_json(source: TokenizerSource, tokens: TokenList, scores: np.ndarray) -> None:
    vocab = model_tokens(source)
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merge_list(source)):
        ranks.setdefault(merge.replace(" ", ""), rank)
    for text, token_id in vocab.items():
        kind = TokenType.BYTE if _BYTE.fullmatch(text) else TokenType.NORMAL
        if text == source.model.get("unk_token"):
            kind = TokenType.UNKNOWN
        tokens.put(token_id, text, kind)
        scores[token_id] = -float(ranks.get(text, len(ranks)))
