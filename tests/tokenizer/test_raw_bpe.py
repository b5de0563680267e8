"""BPE over characters, as Gemma 4 has it, against a pipeline of the tokenizers library in the manner of its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from densecore.tokenizer import Tokenizer as GGUFTokenizer
from tests.tokenizer.vocabs import write_vocabulary

TEXTS = [path.read_text() for path in (Path(__file__).resolve().parents[2] / "docs").glob("S*.md")]
CASES = [
    "Hello world",
    "  two   spaces  ",
    "lines\n\n\nand more\n",
    "你好 naïve 🦙",
    "<bos> <unk>",
    "\t\ttab",
    "ab" * 30,
    TEXTS[0][:2000],
]


@pytest.fixture(scope="module")
def learnt():
    """A pipeline of the library, and the same vocabulary as keys of a GGUF file."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+|[\n]+"), "isolated")
    lines = [line for text in TEXTS for line in text.split(".")]
    trained.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocab, merges = {text: i for i, text in enumerate(tokens)}, [tuple(merge) for merge in model["merges"]]
    pipeline = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    pipeline.normalizer = trained.normalizer
    pipeline.pre_tokenizer = trained.pre_tokenizer
    values = {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.token_type": np.array([3, 3, 3, 2] + [6] * 256 + [1] * len(model["vocab"]), np.int32),
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
    }
    return pipeline, values


@pytest.fixture(scope="module")
def both(learnt, tmp_path_factory):
    pipeline, values = learnt
    path = tmp_path_factory.mktemp("raw") / "vocab.gguf"
    return pipeline, GGUFTokenizer.from_gguf(write_vocabulary(path, values))


@pytest.mark.parametrize("case", range(len(CASES)))
def test_ids(both, case):
    pipeline, tokenizer = both
    ids = tokenizer.encode(CASES[case])
    assert tokenizer.decode(ids) == CASES[case]
    if "<" not in CASES[case]:  # there the pipeline has control tokens in reach
        assert ids == pipeline.encode(CASES[case]).ids
    assert not {0, 1, 2, 3} & set(ids)


def test_white_space_that_is_dropped(learnt, tmp_path):
    """As the library's own words, in lower case where the file asks for it."""
    pipeline, same = learnt
    words = "One  two,\n\tTHREE"
    for lowercase in (None, False, True):
        values = same | {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "whitespace",
            "tokenizer.ggml.normalizer.lowercase": lowercase,
        }
        dropping = GGUFTokenizer.from_gguf(write_vocabulary(tmp_path / "vocab.gguf", values))
        text = words.lower() if lowercase else words
        assert dropping.encode(words) == [i for word in text.split() for i in pipeline.encode(word).ids]


def test_kind(both):
    _, tokenizer = both
    assert tokenizer.kind == "gpt2"
    assert tokenizer.encode("a", add_special=True)[0] == 2
