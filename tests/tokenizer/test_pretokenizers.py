"""The cuts before BPE: every known name loads, keeps all text, and takes time in proportion to the text."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time

import pytest
from tokenizers import Regex, pre_tokenizers

from densecore.exceptions import ModelLoadError
from densecore.tokenizer.pretokenizers import PRE_TOKENIZERS, split_digits
from tests.tokenizer.vocabs import tiny

RULES = {rule: name for name, rule in reversed(PRE_TOKENIZERS.items())}  # one name for each rule


def test_how_many_names_are_known():
    assert len(PRE_TOKENIZERS) >= 88
    assert {"default", "gpt-2", "llama-bpe", "qwen2", "deepseek-v3", "tekken", "gpt-4o"} <= PRE_TOKENIZERS.keys()


@pytest.mark.parametrize("pre", [name for name, rule in PRE_TOKENIZERS.items() if rule.byte_level])
def test_text_comes_back(tmp_path, pre):
    tokenizer = tiny(tmp_path, "gpt2", pre=pre)
    text = "I'll say: 1234567 héllo's\r\n\n\t x  ½ 日本語カナ 한국어 مرحبا हिन्दी \U0001f999!? "
    text += "IMGIMGAAZ <sentinel:12> \u0301 "
    assert tokenizer.decode(tokenizer.encode(text)) == text


# Words by rule, for text on which the rules disagree; the cuts are worked out by hand from the published expressions.
TEXT = "I'LL see 12345 HTTPServer\u00e9x!!\n\n  def"
CUTS = {
    "gpt-2": "I|'|LL| see| 12345| HTTPServeréx|!!|\n\n | def",
    "llama-bpe": "I|'LL| see| |123|45| HTTPServeréx|!!\n\n| | def",
    "qwen2": "I|'LL| see| |1|2|3|4|5| HTTPServeréx|!!\n\n| | def",
    "starcoder": "I|'|LL| see| |1|2|3|4|5| HTTPServeréx|!!|\n\n | def",
    "deepseek-v3": "I|'LL| see| |123|45| HTTPServeréx|!!\n\n| | def",
    "tekken": "I|'LL| see| |1|2|3|4|5| HTTPServeréx|!!\n\n| | def",
    "gpt-4o": "I'LL| see| |123|45| HTTPServeréx|!!\n\n| | def",
    "tiny_aya": "I'LL| see| |12|345| HTTPServeréx|!!\n\n| | def",
    "superbpe": "I'LL see |12|345| HTTPServeréx!!\n\n  def",
    "afmoe": "I|'LL| see| |12|345| HTTPServeréx|!!\n\n| | def",
    "bloom": "I'LL| see| 12345| HTTPServeréx|!!\n\n | def",
    "falcon": "I|'|LL| see| |123|45| HTTPServeréx|!!|\n\n | def",
    "seed-coder": "I|'LL| see| |1|2|3|4|5| HTTPServeréx|!!|\n\n| | def",
}


@pytest.mark.parametrize("name", CUTS)
def test_cuts(name):
    assert "|".join(cut(name, TEXT)) == CUTS[name]


def cut(name: str, text: str) -> list[str]:
    """The words that a rule makes of `text`."""
    rule = PRE_TOKENIZERS[name]
    steps = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in rule.patterns])
    parts = rule.split_first(text) if rule.split_first else [text]
    return [word for part in parts for word, _ in steps.pre_tokenize_str(part)]


@pytest.mark.parametrize("bounded", [False, True])
def test_digit_groups_are_those_of_the_published_expression(bounded):
    """Checked on all short strings, where the published form is fast enough."""
    published = r"\d{1,3}(?=(?:\d{3})*\b)" if bounded else r"\d{1,3}(?=(?:\d{3})*(?!\d))"
    steps = pre_tokenizers.Split(Regex(published), "isolated")
    texts = ["".join(text) for n in range(5) for text in itertools.product("1a. é_", repeat=n)]
    texts += ["1" * n + end for n in range(12) for end in ("", "a", " ", "_", "\u0301", ".5")]
    for text in texts:
        expected = [word for word, _ in steps.pre_tokenize_str(text)] if text else []
        assert split_digits(text, only_before_boundary=bounded) == expected, text


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match=r"vocab\.gguf.*tokenizer\.ggml\.pre.*no-such-rule"):
        tiny(tmp_path, "gpt2", pre="no-such-rule")


def test_a_missing_name_is_the_default_with_a_warning(tmp_path):
    with pytest.warns(RuntimeWarning, match="`default` is used"):
        tokenizer = tiny(tmp_path, "gpt2", pre=None)
    assert tokenizer.encode("the 1234") == tiny(tmp_path, "gpt2", pre="default").encode("the 1234")


def hostile_texts(size: int) -> list[str]:
    """Runs that make expressions with backtracking slow, each alone and with something after it."""
    units = [*" \n\t\r\0aA1!'_/日カ한\u00bd\u0301\u00a0\u01c5\u02b0\U0001f999"]
    units += ["aA", "'s", "a\u0301", " \n", "a ", "1 ", "IMGIMGA", "<sentinel:1"]
    ends = ["", "a", "1", " ", "\n", "!"]
    rng = random.Random(0)
    texts = [unit * (size // len(unit)) + rng.choice(ends) for unit in units]
    return [*texts, *(first * (size // 2) + second for first in (" ", "1", "a", "A", "日") for second in ends)]


PROBE = """
import time
from tests.tokenizer.test_pretokenizers import RULES, cut, hostile_texts
texts = hostile_texts(10_000)
for name in RULES.values():
    for text in texts:
        start = time.process_time()
        assert "".join(cut(name, text)) == text
        seconds = time.process_time() - start
        assert seconds < 0.5, f"{name}: {seconds:.1f} s for {text[:8]!r}...{text[-8:]!r}"
"""


def test_time_is_proportional_to_the_text():
    """Every rule with 10,000 characters of the worst kind, in a process that can be stopped should it hang."""
    subprocess.run([sys.executable, "-c", PROBE], check=True, timeout=300)


@pytest.mark.parametrize("name", ["superbpe", "tiny_aya", "afmoe", "gpt-4o", "deepseek-llm"])
def test_very_many_digits(name):
    start = time.process_time()
    assert "".join(cut(name, "1" * 300_000)) == "1" * 300_000
    assert time.process_time() - start < 10
