"""decode(encode(text)) gives the text back, for any text that a kind can express."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densecore.exceptions import InvalidConfigError
from tests.tokenizer.vocabs import SPACE, recorded, tiny, with_tokens

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)
# Text of the pieces that tokenizers treat in special ways, next to anything.
ODD = st.lists(
    st.sampled_from(
        [" ", "  ", "\n", "\r\n", "\t", "\x00", "a", "A", "'s", "1", "123456", "\u0301", "日本", "\U0001f999", "</s>",
         "<s>", "<unk>", "<0x41>", "<|im_end|>", "<|eot_id|>", "[UNK]", "##a", "\u00a0", "\ufffd", "\ufeff", "İ"]
    ),
    max_size=12,
).map("".join)  # fmt: skip
RELAXED = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2"])
@given(text=TEXT | ODD)
@RELAXED
def test_gpt2(name, text):
    tokenizer = recorded(name)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text, add_special=True), skip_special=True) == text
    assert tokenizer.decode(tokenizer.encode(text, parse_special=True)) == text


@given(text=TEXT | ODD)
@RELAXED
def test_llama(text):
    text = text.replace(SPACE, "")
    tokenizer = recorded("llama-spm")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text, add_special=True), skip_special=True) == text
    assert tokenizer.decode(tokenizer.encode(text, parse_special=True)) == text


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("t5"), "t5")


@given(text=st.text(alphabet="abcdefxyz ,.!?#[]<>|_-'\n", max_size=60))
@RELAXED
def test_t5(tiny_t5, text):
    tokenizer = tiny_t5
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text, add_special=True), skip_special=True) == text


@given(text=TEXT | ODD)
@RELAXED
def test_t5_takes_any_text(tiny_t5, text):
    """No text becomes a control token, a padding one, or what stands for them inside."""
    assert not {0, 1} & set(tiny_t5.encode(text + "\ufdd01 </s> \ufdd0"))


@given(text=TEXT | ODD)
@RELAXED
def test_bert_is_idempotent(text):
    tokenizer = recorded("bert-bge")
    once = tokenizer.decode(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(once)) == once
    assert once == once.strip(" ")


@pytest.mark.parametrize("add_space_prefix", [True, False])
@given(text=TEXT | ODD)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tiny_llama_with_user_defined_tokens(tmp_path_factory, add_space_prefix, text):
    tokenizer = _tiny_llama(tmp_path_factory, add_space_prefix)
    text = text.replace(SPACE, "")
    for wrapped in (text, f"<x>{text}<y>", f"{text}<x><y> {text}"):
        assert tokenizer.decode(tokenizer.encode(wrapped)) == wrapped


_MADE = {}


def _tiny_llama(tmp_path_factory, add_space_prefix):
    if add_space_prefix not in _MADE:
        changes = with_tokens("llama", {"<x>": 4, "<y>": 4})
        _MADE[add_space_prefix] = tiny(
            tmp_path_factory.mktemp("vocab"), "llama", add_space_prefix=add_space_prefix, **changes
        )
    return _MADE[add_space_prefix]


@pytest.mark.parametrize("text", ["", " ", "  ", " a", "  a ", "\n a", "\u00a0", "a\x00b"], ids=repr)
@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "llama-spm"])
def test_edges(name, text):
    tokenizer = recorded(name)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_empty_text_has_no_ids():
    assert recorded("llama-spm").encode("") == []
    assert recorded("llama-spm").encode("", add_special=True) == [1]


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm", "bert-bge"])
def test_lone_surrogate_is_refused(name):
    with pytest.raises(InvalidConfigError, match=r"U\+D800 at character 2"):
        recorded(name).encode("ab\ud800c")


def test_only_str_is_text():
    with pytest.raises(InvalidConfigError, match="bytes"):
        recorded("gpt-2").encode(b"abc")


@pytest.mark.parametrize("token_id", [-1, 50257, 1 << 70, "7", 1.5, None], ids=repr)
def test_ids_out_of_range(token_id):
    with pytest.raises(InvalidConfigError, match=r"0 to 50256"):
        recorded("gpt-2").decode([15496, token_id])
    with pytest.raises(InvalidConfigError, match=r"0 to 50256"):
        recorded("gpt-2").token_bytes(token_id)
