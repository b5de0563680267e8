"""Kind ``gpt2``: byte-level BPE, whose cuts into words have a name in GGUF files (``tokenizer.ggml.pre``)."""

from __future__ import annotations

from typing import Any

from densecore.convert.vocabulary.pre import recognize_pre_tokenizer
from densecore.convert.vocabulary.source import TokenizerSource
from densecore.convert.vocabulary.special import Pairs
from densecore.convert.vocabulary.tokens import TokenList, model_tokens
from densecore.gguf.errors import describe
from densecore.gguf.types import ValueType
from densecore.tokenizer.vocabulary import TokenType

__all__ = ["bpe_pairs", "merge_list"]


def bpe_pairs(source: TokenizerSource, pre: str | None) -> Pairs:
    """The keys of a byte-level BPE vocabulary; `pre` names its cuts, which otherwise are recognized."""
    tokens = TokenList.padding(source.n_vocab)
    for text, token_id in model_tokens(source).items():
        tokens.put(token_id, text, TokenType.NORMAL)
    tokens.add(source)
    yield "tokenizer.ggml.model", "gpt2", None
    yield "tokenizer.ggml.pre", pre or recognize_pre_tokenizer(source), None
    yield "tokenizer.ggml.tokens", tokens.texts, None
    yield "tokenizer.ggml.token_type", tokens.types, ValueType.INT32
    yield "tokenizer.ggml.merges", merge_list(source), ValueType.STRING


def merge_list(source: TokenizerSource) -> list[str]:
    """Merges as two texts with a space between them; a space inside of one becomes the byte-level character for it."""
    merges: Any = source.model.get("merges")
    if not isinstance(merges, list):
        raise source.error("model.merges", f"is {describe(merges)}", "a list")
    found = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            raise source.error("model.merges", f"holds {describe(merge)}", "pairs of two texts")
        found.append(" ".join(part.replace(" ", "Ġ") for part in pair))
    return found
