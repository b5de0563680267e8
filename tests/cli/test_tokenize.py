"""``densecore tokenize``."""

from __future__ import annotations

import json

import pytest

from densecore import Tokenizer
from densecore.data import builtin_model_path
from tests.conftest import shared_path

from .conftest import Cli

TEXT = "def f(x):\n    return 'é'"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(builtin_model_path())


def test_a_line_a_token(cli: Cli) -> None:
    assert cli("tokenize", "def f(x):") == (
        0,
        "    313  'def'\n    286  ' f'\n      8  '('\n     88  'x'\n    302  '):'\n",
        "",
    )


@pytest.mark.parametrize(
    ("arguments", "stdin"), [([TEXT], ""), ([], TEXT), (["-"], TEXT)], ids=["argument", "pipe", "-"]
)
def test_ids(cli: Cli, tokenizer: Tokenizer, arguments: list[str], stdin: str) -> None:
    status, out, err = cli("tokenize", "--ids", *arguments, stdin=stdin)
    assert (status, err) == (0, "")
    assert [int(word) for word in out.split()] == tokenizer.encode(TEXT)


@pytest.mark.parametrize("written", ["{}", "[{}]", "-"])
def test_decode_takes_what_ids_prints(cli: Cli, tokenizer: Tokenizer, written: str) -> None:
    ids = tokenizer.encode(TEXT)
    separator = ", " if written == "[{}]" else " "
    line = separator.join(map(str, ids))
    assert cli("tokenize", "--decode", written.format(line), stdin=line + "\n") == (0, TEXT + "\n", "")


def test_json(cli: Cli, tokenizer: Tokenizer) -> None:
    facts = json.loads(cli("tokenize", "--json", TEXT).out)
    assert facts == {
        "ids": tokenizer.encode(TEXT),
        "pieces": [tokenizer.token_text(token_id) for token_id in tokenizer.encode(TEXT)],
        "text": TEXT,
    }


def test_special_tokens(cli: Cli) -> None:
    assert cli("tokenize", "--ids", "<|endoftext|>").out == "0\n"
    assert cli("tokenize", "--ids", "--no-parse-special", "<|endoftext|>").out.count(" ") > 3
    assert cli("tokenize", "--ids", "--add-special", "x").out == "0 88\n"


def test_vocabulary_without_a_model(cli: Cli) -> None:
    path = shared_path("vocabs", "ggml-vocab-llama-spm.gguf")
    assert cli("tokenize", "-m", path, "--ids", "Hello world").out == "15043 3186\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--decode", "5000"], "5000"), (["x", "-m", "/nowhere.gguf"], "/nowhere.gguf"), (["a\udcff"], "surrogate")],
)
def test_errors(cli: Cli, arguments: list[str], said: str) -> None:
    status, out, err = cli("tokenize", *arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert said in err
