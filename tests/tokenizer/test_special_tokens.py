"""Control and user-defined tokens in text, what goes around it, and what ends a reply."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecore.tokenizer.special import SpecialTokens
from tests.tokenizer.reference import cut_specials
from tests.tokenizer.vocabs import recorded, tiny, with_tokens

CHAT = "<|im_start|>user\nHi<|im_end|>\n"


def test_control_tokens_are_parsed_on_request_only():
    tokenizer = recorded("qwen2")
    start, end = 151644, 151645
    parsed = tokenizer.encode(CHAT, parse_special=True)
    assert parsed[0] == start
    assert parsed.count(end) == 1
    plain = tokenizer.encode(CHAT)
    assert not {start, end} & set(plain)
    assert tokenizer.decode(plain) == tokenizer.decode(parsed) == CHAT
    assert tokenizer.decode(parsed, skip_special=True) == "user\nHi\n"


def test_user_defined_tokens_are_always_found():
    tokenizer = recorded("qwen2")
    assert tokenizer.encode("a[PAD151646]b") == tokenizer.encode("a[PAD151646]b", parse_special=True)
    assert 151646 in tokenizer.encode("a[PAD151646]b")
    assert tokenizer.token_bytes(151646) == b"[PAD151646]"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_no_text_turns_into_a_control_token(tmp_path, kind):
    """Not even a word that the merges would make."""
    pre = {"pre": "llama-bpe"} if kind == "gpt2" else {}  # here a word that is a token needs no merges
    tokenizer = tiny(tmp_path, kind, **with_tokens(kind, {"end": 3, "<the>": 3}), **pre)
    for token_id in range(tokenizer.n_vocab):
        if tokenizer.is_special(token_id):
            text = tokenizer.token_text(token_id)
            assert token_id not in tokenizer.encode(text)
            assert tokenizer.encode(text, parse_special=True) == [token_id]


SMALL = st.text(alphabet="abc<|>", max_size=30)
TOKENS = st.lists(st.text(alphabet="abc<|>", min_size=1, max_size=5), max_size=6, unique=True)


@given(text=SMALL, tokens=TOKENS)
def test_cuts_are_those_of_llama_cpp(text, tokens):
    """Longest token first over the whole text. Equally long ones that overlap each other have no set order there."""
    if len({len(token) for token in tokens}) < len(tokens):
        return
    found = SpecialTokens({token: i for i, token in enumerate(tokens)}).split(text)
    assert [tokens[part] if isinstance(part, int) else part for part in found] == cut_specials(text, tokens)


@pytest.mark.parametrize(
    "text", ["a" * 30_000, ("a" * 63 + "b") * 500, ("ab" * 40 + "a" * 40) * 200], ids=["a", "ab", "aba"]
)
def test_tokens_that_begin_each_other_take_bounded_time(text):
    """As Gemma's runs of newlines, and worse: every position starts many tokens."""
    special = SpecialTokens({"a" * length: length for length in range(1, 65)})
    start = time.process_time()
    parts = list(special.split(text))
    assert "".join("a" * part if isinstance(part, int) else part for part in parts) == text
    assert time.process_time() - start < 5


def test_white_space_beside_tokens_is_stripped_where_they_say_so():
    special = SpecialTokens({"<l>": 1, "<r>": 2, "<x>": 3}, frozenset({1}), frozenset({2}))
    assert list(special.split("a <l> b <r> c <x> d")) == ["a", 1, " b ", 2, "c ", 3, " d"]
    assert list(special.split(" <l><r> ")) == [1, 2]


def test_phi3_takes_the_white_space_after_its_tokens(tmp_path):
    changes = with_tokens("llama", {"<|user|>": 3, "<|end|>": 3})
    tokenizer = tiny(tmp_path, "llama", **{"general.name": "Phi-3-mini", **changes})
    other = tiny(tmp_path, "llama", **changes)
    ids = tokenizer.encode("<|user|>\nthe<|end|>\n", parse_special=True)
    assert tokenizer.decode(ids) == "<|user|>the<|end|>"
    assert other.decode(other.encode("<|user|>\nthe<|end|>\n", parse_special=True)) == "<|user|>\nthe<|end|>\n"


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("llama", {}, ((1,), ())),
        ("llama", {"add_bos_token": False}, ((), ())),
        ("llama", {"add_eos_token": True}, ((1,), (2,))),
        ("gpt2", {"add_bos_token": None}, ((), ())),
        ("gpt2", {"add_bos_token": True, "bos_token_id": 5, "eos_token_id": 6, "add_eos_token": True}, ((5,), (6,))),
        ("gpt2", {"add_bos_token": None, "pre": "llama-bpe", "bos_token_id": 5}, ((5,), ())),
        ("gpt2", {"add_bos_token": None, "pre": "llama-bpe", "bos_token_id": None}, ((), ())),
        ("bert", {}, ((2,), (3,))),
        ("bert", {"add_bos_token": False}, ((2,), (3,))),
        ("t5", {}, ((), (1,))),
        ("t5", {"add_eos_token": False, "add_bos_token": True, "bos_token_id": 1}, ((1,), ())),
    ],
)
def test_what_goes_around_a_text(tmp_path, kind, changes, expected):
    tokenizer = tiny(tmp_path, kind, **changes)
    prefix, suffix = expected
    assert tokenizer.encode("the", add_special=True) == [*prefix, *tokenizer.encode("the"), *suffix]
    assert (tokenizer.add_bos, tokenizer.add_eos) == (bool(prefix), bool(suffix))


def test_bos_is_not_doubled():
    tokenizer = recorded("llama-spm")
    once = tokenizer.encode("<s>Hi", add_special=True, parse_special=True)
    assert once == tokenizer.encode("<s>Hi", parse_special=True)
    assert once.count(1) == 1


def test_control_tokens_contribute_nothing():
    tokenizer = recorded("llama-bpe")
    assert tokenizer.token_bytes(128009) == b""
    assert tokenizer.token_text(128009) == "<|eot_id|>"
    assert tokenizer.token_text(9906) == "Hello"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-bpe", {"<|end_of_text|>", "<|eot_id|>"}),
        ("qwen2", {"<|endoftext|>", "<|im_end|>"}),  # </s> is an HTML tag here, made by merges
        ("gpt-2", {"<|endoftext|>"}),
        ("llama-spm", {"</s>"}),
    ],
)
def test_end_of_generation_of_published_vocabularies(name, expected):
    tokenizer = recorded(name)
    assert {tokenizer.token_text(token_id) for token_id in tokenizer.eog_ids} == expected


@pytest.mark.parametrize(
    ("extra", "changes", "expected"),
    [
        ({"<end_of_turn>": 1}, {}, {"</s>", "<end_of_turn>"}),
        ({"<|im_end|>": 4}, {}, {"</s>", "<|im_end|>"}),
        ({"STOP": 3}, {"eot_token_id": 315}, {"</s>", "STOP"}),
        ({"STOP": 3}, {"eom_token_id": 315}, {"</s>", "STOP"}),
        ({"<|end|>": 3}, {}, {"</s>", "<|end|>"}),
        ({"<|end|>": 3, "<|return|>": 3, "<|call|>": 3}, {}, {"</s>", "<|return|>", "<|call|>"}),
        ({"<|tool_response>": 3, "<turn|>": 3}, {"eos_token_id": 315}, {"<|tool_response>", "<turn|>"}),
    ],
)
def test_end_of_generation(tmp_path, extra, changes, expected):
    values = with_tokens("llama", extra)
    n_vocab = len(values["tokens"])
    changes = {key: n_vocab - len(extra) for key in changes}
    tokenizer = tiny(tmp_path, "llama", **values, **changes)
    assert {tokenizer.token_text(token_id) for token_id in tokenizer.eog_ids} == expected


def test_tokens_between_which_gpt_oss_writes_are_shown(tmp_path):
    tokenizer = tiny(tmp_path, "llama", **with_tokens("llama", {"<|channel|>": 3, "<|return|>": 3}))
    ids = tokenizer.encode("<|channel|><|return|>", parse_special=True)
    assert tokenizer.decode(ids, skip_special=True) == "<|channel|>"
