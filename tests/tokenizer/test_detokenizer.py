"""Streaming: complete characters only, and together exactly what decoding all at once gives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densecore.exceptions import InvalidConfigError
from tests.tokenizer.vocabs import RECORDED, recorded, tiny

SETTINGS = settings(deadline=None, max_examples=100)


def stream(tokenizer, ids, prompt_ids=(), **kwargs):
    detokenizer = tokenizer.detokenizer(prompt_ids, **kwargs)
    return [detokenizer.push(token_id) for token_id in ids] + [detokenizer.flush()]


@pytest.mark.parametrize("name", RECORDED)
@given(data=st.data())
@SETTINGS
def test_pieces_are_the_decoding_of_all(name, data):
    """For ids at random, most of which make no sense, many of which are parts of characters."""
    tokenizer = recorded(name)
    ids = data.draw(st.lists(st.integers(0, 600) | st.integers(0, tokenizer.n_vocab - 1), max_size=30))
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids, skip_special=True)
    assert "".join(stream(tokenizer, ids, skip_special=False)) == tokenizer.decode(ids)


@given(data=st.binary(max_size=40))
@SETTINGS
def test_any_bytes_are_decoded_as_python_does(tmp_path_factory, data):
    """One token a byte: what is invalid becomes U+FFFD as in bytes.decode, at the latest when flushed."""
    tokenizer = _bytes_tokenizer(tmp_path_factory)
    byte_ids = {tokenizer.token_bytes(token_id): token_id for token_id in range(256)}
    ids = [byte_ids[bytes([byte])] for byte in data]
    assert "".join(stream(tokenizer, ids)) == data.decode("utf-8", "replace")
    assert tokenizer.decode(ids) == data.decode("utf-8", "replace")


_MADE = []


def _bytes_tokenizer(tmp_path_factory):
    if not _MADE:
        _MADE.append(tiny(tmp_path_factory.mktemp("vocab"), "gpt2"))
    return _MADE[0]


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm"])
def test_no_character_is_ever_split(name):
    tokenizer = recorded(name)
    text = "héllo \U0001f999\U0001f469\u200d\U0001f680 日本語"
    ids = tokenizer.encode(text)
    pieces = stream(tokenizer, ids)
    assert len(ids) > len(text)
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == text
    assert "" in pieces


def test_an_unfinished_character_comes_when_flushed():
    tokenizer = recorded("gpt-2")
    ids = tokenizer.encode("a\U0001f999")
    assert stream(tokenizer, ids[:-1])[-1] == "\ufffd"
    detokenizer = tokenizer.detokenizer()
    assert detokenizer.push(ids[0]) == "a"
    assert detokenizer.flush() == ""


@pytest.mark.parametrize("name", RECORDED)
@given(data=st.data())
@SETTINGS
def test_after_a_prompt_only_what_is_new(name, data):
    tokenizer = recorded(name)
    ids = data.draw(st.lists(st.integers(0, 600) | st.integers(0, tokenizer.n_vocab - 1), max_size=20))
    cut = data.draw(st.integers(0, len(ids)))
    before = tokenizer.detokenizer()
    shown = "".join(before.push(token_id) for token_id in ids[:cut])
    assert shown + "".join(stream(tokenizer, ids[cut:], ids[:cut])) == "".join(stream(tokenizer, ids))


def test_the_first_space_of_a_continuation_is_kept():
    tokenizer = recorded("llama-spm")
    prompt, word = tokenizer.encode("Hello"), tokenizer.encode("world")
    assert "".join(stream(tokenizer, word)) == "world"
    assert "".join(stream(tokenizer, word, prompt)) == " world"
    assert "".join(stream(tokenizer, word, [*prompt, 2])) == "world"


def test_control_tokens_show_on_request():
    tokenizer = recorded("llama-bpe")
    ids = [9906, 128009]
    assert stream(tokenizer, ids) == ["Hello", "", ""]
    assert stream(tokenizer, ids, skip_special=False) == ["Hello", "<|eot_id|>", ""]


def test_ids_are_checked():
    with pytest.raises(InvalidConfigError, match="0 to 50256"):
        recorded("gpt-2").detokenizer().push(50257)
    with pytest.raises(InvalidConfigError, match="0 to 50256"):
        recorded("gpt-2").detokenizer([50257])
