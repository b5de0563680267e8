"""Vocabularies for tests: the recorded ones beside the checkout, and tiny ones made on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from densecore.gguf import GGUFWriter
from densecore.gguf.types import ValueType
from densecore.tokenizer import Tokenizer
from tests.conftest import shared_path
from tests.gguf_factory import gpt2_vocabulary, llama_vocabulary

RECORDED = ("gpt-2", "llama-bpe", "qwen2", "llama-spm", "bert-bge")
SPACE = "\u2581"


def recorded(name: str) -> Tokenizer:
    """One of the published vocabularies; loaded once."""
    return _load(str(shared_path("vocabs", f"ggml-vocab-{name}.gguf")))


@cache
def _load(path: str) -> Tokenizer:
    return Tokenizer.from_gguf(path)


def bert_vocabulary() -> dict[str, Any]:
    """WordPiece with [PAD], [UNK], [CLS], [SEP], a few words, and letters that start or continue a word."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [SPACE + word for word in ("hello", "world", "un", *letters, *",.!?#[]")]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, "aff", "able", *letters]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([3] * 4 + [1] * (len(tokens) - 4), np.int32),
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
    }


def t5_vocabulary() -> dict[str, Any]:
    """Unigram with <pad>, </s>, <unk>, a few words, and letters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.!?#[]<>|_-'\n" + SPACE
    words = [SPACE + word for word in ("hello", "world", "un", "a")]
    tokens = ["<pad>", "</s>", "<unk>", *words, "aff", "able", *letters]
    scores = [0.0, 0.0, 0.0, *(-2.0 - n for n in range(len(words) + 2)), *[-10.0] * len(letters)]
    return {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        "tokenizer.ggml.token_type": np.array([3, 3, 2] + [1] * (len(tokens) - 3), np.int32),
        "tokenizer.ggml.remove_extra_whitespaces": False,
    }


TINY = {"llama": llama_vocabulary, "gpt2": gpt2_vocabulary, "bert": bert_vocabulary, "t5": t5_vocabulary}


def write_vocabulary(path: Path, values: Mapping[str, Any]) -> Path:
    """A GGUF file of metadata alone; None leaves a key out."""
    writer = GGUFWriter(path)
    writer.add_metadata("general.architecture", "llama")
    for key, value in values.items():
        if value is not None:
            writer.add_metadata(key, value, ValueType.STRING if isinstance(value, list) else None)
    writer.write()
    return path


def tiny(path: Path, kind: str, **changes: Any) -> Tokenizer:
    """The tokenizer of a tiny vocabulary of `kind` with some keys changed."""
    return Tokenizer.from_gguf(write_vocabulary(path / "vocab.gguf", tiny_values(kind, **changes)))


def tiny_values(kind: str, **changes: Any) -> dict[str, Any]:
    """Metadata of a tiny vocabulary; `changes` by the last part of the key."""
    values = dict(TINY[kind]())
    values.update({key if "." in key else f"tokenizer.ggml.{key}": value for key, value in changes.items()})
    return values


def with_tokens(kind: str, extra: Mapping[str, int]) -> dict[str, Any]:
    """A tiny vocabulary with further tokens, text to type, at its end: only the keys that change."""
    values = TINY[kind]()
    changes: dict[str, Any] = {
        "tokens": [*values["tokenizer.ggml.tokens"], *extra],
        "token_type": np.array([*values["tokenizer.ggml.token_type"], *extra.values()], np.int32),
    }
    if "tokenizer.ggml.scores" in values:
        changes["scores"] = np.array([*values["tokenizer.ggml.scores"], *[-99.0] * len(extra)], np.float32)
    return changes
