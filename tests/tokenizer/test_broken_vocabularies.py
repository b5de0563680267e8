"""Broken vocabularies are refused with one line that names file and key; odd ones that work only warn."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.exceptions import ModelLoadError
from densecore.tokenizer import Tokenizer
from tests.broken_files import FileOpener, check_refused
from tests.conftest import shared_path
from tests.gguf_factory import byte_alphabet
from tests.tokenizer.vocabs import TINY, tiny, tiny_values, with_tokens, write_vocabulary

LLAMA, GPT2, BERT = (TINY[kind]() for kind in ("llama", "gpt2", "bert"))
N_LLAMA = len(LLAMA["tokenizer.ggml.tokens"])


def llama_tokens(index: int, text: str) -> list[str]:
    tokens = list(LLAMA["tokenizer.ggml.tokens"])
    tokens[index] = text
    return tokens


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


NAN_SCORES = np.full(N_LLAMA, np.nan, np.float32)
LONG = "x" * 300
# name -> kind, changes, words that the message must hold
CASES: dict[str, tuple[str, dict, tuple[str, ...]]] = {
    "no model": ("llama", {"model": None}, ("tokenizer.ggml.model", "missing")),
    "unknown model": ("llama", {"model": "rwkv"}, ("tokenizer.ggml.model", "rwkv", "gpt2")),
    "empty model": ("llama", {"model": ""}, ("tokenizer.ggml.model", "''")),
    "long model": ("llama", {"model": "y" * 5000}, ("tokenizer.ggml.model", "yyy")),
    "model with line breaks": ("llama", {"model": "a\nb\x1b"}, ("tokenizer.ggml.model",)),
    "model is a number": ("llama", {"model": 3}, ("tokenizer.ggml.model", "a string")),
    "no tokens": ("llama", {"tokens": None}, ("tokenizer.ggml.tokens", "missing")),
    "empty tokens": ("llama", {"tokens": []}, ("tokenizer.ggml.tokens",)),
    "tokens are numbers": ("llama", {"tokens": i32(1, 2, 3)}, ("tokenizer.ggml.tokens", "strings")),
    "tokens are one string": ("llama", {"tokens": "abc"}, ("tokenizer.ggml.tokens", "strings")),
    "no scores": ("llama", {"scores": None}, ("tokenizer.ggml.scores", "missing")),
    "short scores": ("llama", {"scores": f32(0, 1)}, ("tokenizer.ggml.scores", "2 entries", str(N_LLAMA))),
    "NaN scores": ("llama", {"scores": NAN_SCORES}, ("tokenizer.ggml.scores", "NaN")),
    "scores are strings": ("llama", {"scores": ["a"] * N_LLAMA}, ("tokenizer.ggml.scores",)),
    "scores are a number": ("llama", {"scores": 1.5}, ("tokenizer.ggml.scores",)),
    "short types": ("llama", {"token_type": i32(1)}, ("tokenizer.ggml.token_type", "1 entries")),
    "types are floats": ("llama", {"token_type": NAN_SCORES}, ("tokenizer.ggml.token_type",)),
    "types are a string": ("llama", {"token_type": "normal"}, ("tokenizer.ggml.token_type",)),
    "byte token with a wrong digit": ("llama", {"tokens": llama_tokens(5, "<0xZZ>")}, ("token", "5", "<0xZZ>")),
    "byte token of one digit": ("llama", {"tokens": llama_tokens(5, "<0x1>")}, ("tokens", "<0x1>")),
    "byte token of three digits": ("llama", {"tokens": llama_tokens(5, "<0x123>")}, ("tokens", "<0x123>")),
    "byte token in lower case": ("llama", {"tokens": llama_tokens(13, "<0x0a>")}, ("tokens", "<0x0a>")),
    "byte token with more": ("llama", {"tokens": llama_tokens(5, "<0x02> ")}, ("tokens", "<0x02> ")),
    "byte token with a foreign digit": ("llama", {"tokens": llama_tokens(5, "<0x0\u0662>")}, ("tokens",)),
    "very long token": ("llama", {"tokens": llama_tokens(270, LONG)}, ("tokens", "270", "300 characters")),
    "very long special token": ("gpt2", with_tokens("gpt2", {LONG: 3}), ("tokens", "300 characters")),
    "no merges": ("gpt2", {"merges": None}, ("tokenizer.ggml.merges", "missing")),
    "merges are numbers": ("gpt2", {"merges": i32(1, 2)}, ("tokenizer.ggml.merges", "strings")),
    "merge of one": ("gpt2", {"merges": ["t h", "th"]}, ("tokenizer.ggml.merges", "index 1", "'th'")),
    "merge of three": ("gpt2", {"merges": ["t h e"]}, ("tokenizer.ggml.merges", "t h e")),
    "merge with an empty side": ("gpt2", {"merges": ["t "]}, ("tokenizer.ggml.merges", "'t '")),
    "empty merge": ("gpt2", {"merges": [""]}, ("tokenizer.ggml.merges", "''")),
    "merge of a missing token": ("gpt2", {"merges": ["zz t"]}, ("tokenizer.ggml.merges", "zz")),
    "merge that makes no token": ("gpt2", {"merges": ["z z"]}, ("tokenizer.ggml.merges", "zz")),
    "unknown pre-tokenizer": ("gpt2", {"pre": "nonsense"}, ("tokenizer.ggml.pre", "nonsense")),
    "pre-tokenizer is a number": ("gpt2", {"pre": 7}, ("tokenizer.ggml.pre", "a string")),
    "BOS is a string": ("llama", {"bos_token_id": "<s>"}, ("tokenizer.ggml.bos_token_id", "an integer")),
    "EOS is a number with a point": ("llama", {"eos_token_id": 2.0}, ("tokenizer.ggml.eos_token_id", "an integer")),
    "add_bos is a number": ("llama", {"add_bos_token": 1}, ("tokenizer.ggml.add_bos_token", "a bool")),
    "add_bos without BOS": (
        "gpt2",
        {"add_bos_token": True, "bos_token_id": None},
        ("tokenizer.ggml.add_bos_token", "bos_token_id"),
    ),
    "add_eos without EOS": (
        "gpt2",
        {"add_eos_token": True, "eos_token_id": None},
        ("tokenizer.ggml.add_eos_token", "eos_token_id"),
    ),
    "add_space_prefix is a string": ("llama", {"add_space_prefix": "yes"}, ("add_space_prefix", "a bool")),
    "chat template is a number": ("llama", {"tokenizer.chat_template": 1}, ("tokenizer.chat_template", "a string")),
    "WordPiece without an unknown token": ("bert", {"unknown_token_id": None}, ("unknown_token_id", "missing")),
    "Unigram without scores": ("t5", {"scores": None}, ("tokenizer.ggml.scores", "missing")),
    "Unigram with an unknown token out of range": ("t5", {"unknown_token_id": "x"}, ("unknown_token_id", "an integer")),
    "table of normalization of numbers": ("t5", {"precompiled_charsmap": i32(1, 2)}, ("precompiled_charsmap", "bytes")),
    "table of normalization that is cut off": (
        "t5",
        {"precompiled_charsmap": np.full(9, 255, np.uint8)},
        ("precompiled_charsmap", "is broken"),
    ),
    "table of normalization that points nowhere": (
        "t5",
        {"precompiled_charsmap": np.frombuffer(b"\x40\0\0\0" + b"\x37\xf1\x0e\x95" * 16 + b"ab\0", np.uint8)},
        ("precompiled_charsmap", "is broken"),
    ),
    "lowercase is a string": (
        "bert",
        {"tokenizer.ggml.normalizer.lowercase": "no"},
        ("normalizer.lowercase", "a bool"),
    ),
}


@pytest.fixture(scope="module")
def opener():
    with FileOpener("densecore.tokenizer:Tokenizer.from_gguf") as opener:
        yield opener


@pytest.mark.parametrize("name", CASES)
def test_refused(opener, tmp_path, name):
    kind, changes, words = CASES[name]
    values = tiny_values(kind, **changes)
    path = write_vocabulary(tmp_path / "broken.gguf", values)
    check_refused(opener.open(path), str(path), *words)


def test_enough_cases():
    assert len(CASES) >= 40


def test_a_file_without_a_vocabulary(opener, tmp_path):
    path = write_vocabulary(tmp_path / "none.gguf", {})
    check_refused(opener.open(path), str(path), "tokenizer.ggml.model")


@pytest.mark.parametrize("kind", TINY)
def test_the_tiny_vocabularies_are_sound(opener, tmp_path, kind):
    assert opener.open(write_vocabulary(tmp_path / "good.gguf", tiny_values(kind))).kind == "opened"


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelLoadError, match=r"nowhere\.gguf"):
        Tokenizer.from_gguf(tmp_path / "nowhere.gguf")


@pytest.mark.parametrize("value", [N_LLAMA, 4294967295, -1])
def test_special_ids_out_of_range_are_ignored_with_a_warning(tmp_path, value):
    with pytest.warns(RuntimeWarning, match=rf"bos_token_id' is {value} .*0 to {N_LLAMA - 1}"):
        tokenizer = tiny(tmp_path, "llama", bos_token_id=np.int64(value))
    assert tokenizer.bos_id == 1  # the kind's default
    with pytest.warns(RuntimeWarning, match="eos_token_id"):
        assert tiny(tmp_path, "gpt2", eos_token_id=np.int64(99999)).eos_id is None


def test_defaults_are_checked_against_the_range_too(tmp_path):
    values = {"tokens": ["\u2581"], "scores": f32(0), "token_type": i32(1)}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "unknown_token_id"))
    with pytest.warns(RuntimeWarning, match="lacks 243"):
        tokenizer = tiny(tmp_path, "llama", **values, **ids)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.encode(" ", add_special=True)) == (None, None, [0, 0])


def test_duplicates_are_accepted_with_a_warning_and_the_first_id_wins(tmp_path):
    plain = tiny(tmp_path, "llama")
    with pytest.warns(RuntimeWarning, match="2 duplicates.*'\u2581the'"):
        tokenizer = tiny(tmp_path, "llama", **_with_duplicates())
    twin = tokenizer.n_vocab - 2
    assert tokenizer.token_bytes(twin) == tokenizer.token_bytes(259) == b" the"
    assert tokenizer.encode("the cat") == plain.encode("the cat")


def _with_duplicates():
    changes = with_tokens("llama", {"x1": 1, "x2": 1})
    changes["tokens"][-2:] = ["\u2581the", "\u2581cat"]
    return changes


def test_empty_tokens_are_no_duplicates(tmp_path):
    changes = with_tokens("llama", {"x1": 1, "x2": 1})
    changes["tokens"][-2:] = ["", ""]
    tokenizer = tiny(tmp_path, "llama", **changes)
    assert tokenizer.token_bytes(tokenizer.n_vocab - 1) == b""


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_missing_bytes_warn(tmp_path, kind):
    values = TINY[kind]()
    tokens = list(values["tokenizer.ggml.tokens"])
    lost = "<0x41>" if kind == "llama" else byte_alphabet()[0]
    tokens[tokens.index(lost)] = "something"
    types = np.ones(len(tokens), np.int32)
    with pytest.warns(RuntimeWarning, match="lacks 1 of"):
        tiny(tmp_path, kind, tokens=tokens, token_type=types)


def test_more_scores_and_types_than_tokens_do_no_harm(tmp_path):
    changes = with_tokens("llama", {"x1": 1})
    changes["tokens"] = changes["tokens"][:-1]
    assert tiny(tmp_path, "llama", **changes).encode("the") == tiny(tmp_path, "llama").encode("the")


def test_without_types_bytes_are_known_by_their_text(tmp_path):
    tokenizer = tiny(tmp_path, "llama", token_type=None)
    assert tokenizer.token_bytes(3 + 0xE6) == b"\xe6"
    assert tokenizer.decode(tokenizer.encode("日本")) == "日本"
    assert tokenizer.decode(tokenizer.encode("<0x41>")) == "<0x41>"


def test_integer_scores_and_odd_types_are_accepted(tmp_path):
    scores = np.round(LLAMA["tokenizer.ggml.scores"]).astype(np.int32)
    types = LLAMA["tokenizer.ggml.token_type"].copy()
    types[-3:] = (77, -1, 5)
    tokenizer = tiny(tmp_path, "llama", scores=scores, token_type=types)
    assert tokenizer.encode("the cat") == tiny(tmp_path, "llama").encode("the cat")


@pytest.mark.parametrize("name", ["stories260K", "tiny-qwen2-Q4_K_M", "pystd-6m-q8_0"])
def test_models_come_with_sound_vocabularies(name):
    tokenizer = Tokenizer.from_gguf(shared_path("models", f"{name}.gguf"))
    text = "Once upon a time, def f(x): return 日本"
    assert tokenizer.decode(tokenizer.encode(text, add_special=True), skip_special=True) == text
