"""Kind ``t5``: Unigram, the tokenizer of T5 and XLM-RoBERTa. Text is covered by the most likely tokens."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

import numpy as np

from densecore.convert.vocabulary.sentencepiece import SentencePieceModel
from densecore.convert.vocabulary.source import TokenizerSource, steps
from densecore.convert.vocabulary.special import Pairs
from densecore.convert.vocabulary.spm import ADDED_SCORE, PADDING_SCORE, put_pieces, space_prefix
from densecore.convert.vocabulary.tokens import TokenList
from densecore.gguf.errors import describe
from densecore.gguf.types import ValueType
from densecore.tokenizer.vocabulary import TokenType

__all__ = ["unigram_pairs"]


def unigram_pairs(source: TokenizerSource, model: SentencePieceModel | None) -> Pairs:
    """The keys of a Unigram vocabulary, from ``tokenizer.json`` where there is one: its ids are the model's."""
    tokens = TokenList.padding(source.n_vocab)
    scores = np.full(source.n_vocab, PADDING_SCORE, np.float32)
    if source.description:
        unknown = _put_json(source, tokens, scores)
        prefix, charsmap = space_prefix(source), _charsmap(source)
        squeeze = _removes_spaces(source)
    else:
        assert model is not None
        put_pieces(source, model, tokens, scores)
        unknown = tokens.types.index(TokenType.UNKNOWN) if TokenType.UNKNOWN in tokens.types else None
        prefix, charsmap = model.add_dummy_prefix, model.charsmap
        squeeze = model.remove_extra_whitespaces
    known = np.array(scores)
    ids = tokens.add(source)
    scores[ids] = np.where(known[ids] == PADDING_SCORE, ADDED_SCORE, known[ids])
    if unknown is not None:
        tokens.types[unknown] = int(TokenType.UNKNOWN)
        yield "tokenizer.ggml.unknown_token_id", unknown, ValueType.UINT32
    yield "tokenizer.ggml.model", "t5", None
    yield "tokenizer.ggml.pre", "default", None
    yield "tokenizer.ggml.tokens", tokens.texts, None
    yield "tokenizer.ggml.scores", scores, None
    yield "tokenizer.ggml.token_type", tokens.types, ValueType.INT32
    if source.config.has("type_vocab_size"):
        yield "tokenizer.ggml.token_type_count", source.config.integer("type_vocab_size"), None
    yield "tokenizer.ggml.add_space_prefix", prefix, None
    yield "tokenizer.ggml.remove_extra_whitespaces", squeeze, None
    if charsmap:
        yield "tokenizer.ggml.precompiled_charsmap", np.frombuffer(charsmap, np.uint8), None


def _put_json(source: TokenizerSource, tokens: TokenList, scores: np.ndarray) -> int | None:
    """Set the tokens of ``tokenizer.json``; the id of the unknown one."""
    vocab = source.model.get("vocab")
    if not isinstance(vocab, list) or not all(_is_piece(entry) for entry in vocab):
        raise source.error("model.vocab", f"is {describe(vocab)}", "a list of texts with a score each")
    if len(vocab) > source.n_vocab:
        allowed = f"at most {source.n_vocab}, by config.json's vocab_size"
        raise source.error("model.vocab", f"has {len(vocab)} tokens", allowed)
    for token_id, (text, score) in enumerate(vocab):
        is_byte = source.model.get("byte_fallback") and len(text) == 6 and text.startswith("<0x")
        tokens.put(token_id, text, TokenType.BYTE if is_byte else TokenType.NORMAL)
        scores[token_id] = score
    unknown = source.model.get("unk_id")
    return unknown if type(unknown) is int and 0 <= unknown < len(vocab) else None


def _is_piece(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
        return False
    return type(entry[1]) in (int, float) and math.isfinite(entry[1])


def _charsmap(source: TokenizerSource) -> bytes:
    """The table by which characters are normalized; ModelLoadError for normalizers that GGUF files cannot express."""
    found = b""
    for step in steps(source.description, "normalizer"):
        kind = step.get("type")
        if kind == "Precompiled":
            try:
                found = base64.b64decode(step.get("precompiled_charsmap") or "", validate=True)
            except (binascii.Error, TypeError, ValueError):
                raise source.error("normalizer", "has a broken precompiled_charsmap", "base64") from None
        elif kind not in ("Replace", "Strip", "Nmt", "NFKC"):
            raise source.error("normalizer", f"has the step {describe(kind)}", "Precompiled, Replace, Strip")
    return found


def _removes_spaces(source: TokenizerSource) -> bool:
    kinds = [step.get("type") for part in ("normalizer", "pre_tokenizer") for step in steps(source.description, part)]
    return "WhitespaceSplit" in kinds or "Replace" in kinds
