"""Long and hostile text: exact, in seconds, for every kind."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.tokenizer.vocabs import recorded

NAMES = ("gpt-2", "llama-bpe", "qwen2", "llama-spm", "bert-bge")
HOSTILE = {
    "one character": "a" * 100_000,
    "spaces": " " * 100_000,
    "newlines": "\n" * 50_000,
    "no spaces": "abcdefghij" * 20_000,
    "digits": "1234567890" * 10_000,
    "digits and a letter": "1" * 100_000 + "a",
    "spaces and a letter": " " * 100_000 + "a",
    "marks": "\u0301" * 30_000,
    "ideographs": "日" * 50_000,
    "outside the vocabulary": "\U0001f999" * 20_000,
    "nearly control tokens": "<|im_start" * 10_000,
    "control tokens": "<|im_start|>" * 10_000,
    "angle brackets": "<" * 100_000,
    "control characters": "\x00\x01" * 20_000,
}
PROBE = """
import sys, time
from tests.tokenizer.test_long_text import HOSTILE
from tests.tokenizer.vocabs import recorded
tokenizer = recorded(sys.argv[1])
for name, text in HOSTILE.items():
    for parse_special in (False, True) if "<" in text else (False,):
        start = time.process_time()
        ids = tokenizer.encode(text, parse_special=parse_special)
        back = tokenizer.decode(ids)
        seconds = time.process_time() - start
        assert back == text or tokenizer.kind == "bert", name
        assert seconds < 10, f"{name}: {seconds:.1f} s"
"""


@pytest.mark.parametrize("name", NAMES)
def test_hostile_text(name):
    """In a process that can be stopped, should it hang."""
    recorded(name)  # skips here without the material
    subprocess.run([sys.executable, "-c", PROBE, name], check=True, timeout=300)


@pytest.mark.parametrize("name", ["llama-bpe", "llama-spm"])
def test_a_megabyte(name):
    tokenizer = recorded(name)
    line = "def f(x): return [x + 1, 'text', {\"key\": 2.5}]  # and a comment, naïve — 日本\n"
    text = line * (1_000_000 // len(line))
    start = time.process_time()
    ids = tokenizer.encode(text)
    assert time.process_time() - start < 20
    assert tokenizer.decode(ids) == text


def test_the_parts_of_a_long_text_are_those_of_a_short_one():
    tokenizer = recorded("llama-bpe")
    line = "The quick brown fox.\n"
    assert tokenizer.encode(line * 1000) == tokenizer.encode(line) * 1000
