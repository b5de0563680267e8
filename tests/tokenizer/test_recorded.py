"""Every recorded case of the published vocabularies gives the recorded ids, and comes back as the same text."""

from __future__ import annotations

import pytest

from densecore.gguf import GGUFFile
from tests.conftest import shared_path
from tests.tokenizer.reference import SPACE, gpt2_words, merge_by_rank, merge_by_score
from tests.tokenizer.vocabs import RECORDED, recorded

SEPARATOR = "\n__ggml_vocab_test__\n"


def cases(name: str) -> list[tuple[str, list[int]]]:
    texts = shared_path("vocabs", f"ggml-vocab-{name}.gguf.inp").read_bytes().decode().split(SEPARATOR)
    lines = shared_path("vocabs", f"ggml-vocab-{name}.gguf.out").read_text().split("\n")
    return [(text, [int(number) for number in line.split()]) for text, line in zip(texts, lines, strict=False)]


@pytest.mark.parametrize("name", RECORDED)
def test_ids(name):
    tokenizer = recorded(name)
    assert len(cases(name)) >= 40
    for text, ids in cases(name):
        assert tokenizer.encode(text) == ids, text


@pytest.mark.parametrize("name", [name for name in RECORDED if name != "bert-bge"])
def test_text_comes_back(name):
    tokenizer = recorded(name)
    for text, ids in cases(name):
        assert tokenizer.decode(ids) == text


def test_bert_text_is_normalized():
    assert recorded("bert-bge").decode(recorded("bert-bge").encode("Héllo,  WORLD! \U0001f999")) == "hello , world !"


WORDS = "the quick brown fox's  jumped\n\n over 12345 dogs -- isn't it? {'key': [1, 2.5]}   def f(x):\n\treturn x\n"


def test_gpt2_against_plain_merging():
    """An independent BPE in a few lines gives the same ids for ASCII text."""
    metadata = GGUFFile.open(shared_path("vocabs", "ggml-vocab-gpt-2.gguf")).metadata
    ids = {text: i for i, text in enumerate(metadata["tokenizer.ggml.tokens"])}
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(metadata["tokenizer.ggml.merges"])}
    written = str.maketrans({" ": "\u0120", "\n": "\u010a", "\t": "\u0109"})
    expected = [i for word in gpt2_words(WORDS) for i in merge_by_rank(word.translate(written), ids, ranks)]
    assert recorded("gpt-2").encode(WORDS) == expected


@pytest.mark.parametrize(
    "text", [WORDS, "   a", "aaaaaaa", "=" * 33, "\n" * 7 + " x", "¡日本語 \U0001f999!", "<s>x</s>"]
)
def test_llama_against_plain_merging(text):
    """Merging by score with the leftmost of equals first, as llama.cpp does, gives the same ids."""
    metadata = GGUFFile.open(shared_path("vocabs", "ggml-vocab-llama-spm.gguf")).metadata
    types = metadata["tokenizer.ggml.token_type"].tolist()
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {token: i for i, token in enumerate(tokens) if types[i] not in (2, 3)}
    scores = metadata["tokenizer.ggml.scores"].tolist()
    expected = merge_by_score(SPACE + text.replace(" ", SPACE), ids, scores)
    assert recorded("llama-spm").encode(text) == expected
