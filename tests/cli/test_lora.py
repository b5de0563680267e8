"""``--lora`` of run, chat and perplexity."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from densecore import DenseCore
from densecore.cli.options import BUILTIN_SAMPLING
from densecore.cli.parser import parse
from densecore.data import builtin_model_path
from tests.lora_factory import make_adapter, merge

from .conftest import Cli

GREEDY = ("--temperature", "0", "-n", "8")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ["blk.0.attn_q", "blk.3.ffn_down", "output"]
    return make_adapter(tmp_path_factory.mktemp("lora") / "an:adapter.gguf", builtin_model_path(), names)


@pytest.fixture(scope="module")
def model(adapter: Path) -> Iterator[DenseCore]:
    with DenseCore(builtin_model_path()) as opened:
        opened.load_lora(adapter, "it")
        yield opened


@pytest.mark.parametrize(("suffix", "scale"), [("", 1.0), (":0.5", 0.5), (":-1", -1.0)])
def test_run(cli: Cli, adapter: Path, model: DenseCore, suffix: str, scale: float) -> None:
    status, out, _ = cli("run", "import os", *GREEDY, "--no-echo", "--lora", f"{adapter}{suffix}")
    settings = BUILTIN_SAMPLING | {"temperature": 0.0, "max_tokens": 8}
    expected, plain = (model.generate("import os", lora=lora, **settings) for lora in ({"it": scale}, None))
    assert (status, out) == (0, expected.removesuffix("\n") + "\n")
    assert expected != plain


def test_several(cli: Cli, adapter: Path) -> None:
    """Half an adapter, twice, is the whole of it; what is added up in parts is rounded otherwise, so in a text only."""
    twice = cli("run", "import os", *GREEDY, "--lora", f"{adapter}:0.5", "--lora", f"{adapter}:0.5")
    assert twice.out == cli("run", "import os", *GREEDY, "--lora", str(adapter)).out


def test_chat(cli: Cli, adapter: Path) -> None:
    plain, changed = (cli("chat", *GREEDY, *flags, stdin="import os\n") for flags in ((), ("--lora", str(adapter))))
    assert (plain.status, changed.status) == (0, 0)
    assert plain.out != changed.out


def test_perplexity(cli: Cli, adapter: Path, tmp_path: Path) -> None:
    """That of a model into which the adapter is merged."""
    (tmp_path / "text").write_text("def read(self, size=-1):\n    return self._file.read(size)\n" * 8)
    merged = merge(tmp_path / "merged.gguf", builtin_model_path(), {adapter: 1.0})
    commands = (("--lora", f"{adapter}:1"), ("-m", str(merged)), ())
    values = [json.loads(cli("perplexity", tmp_path / "text", "-c", "64", "--json", *c).out) for c in commands]
    changed, expected, plain = (value["perplexity"] for value in values)
    assert changed == pytest.approx(expected, rel=0.02)  # the merged model is not quantized
    assert plain != pytest.approx(expected, rel=0.1)


def test_a_colon_may_belong_to_the_path() -> None:
    parsed = parse(["run", "x", "--lora", "a:b", "--lora", "a:b:2", "--lora", ":1", "--lora", "c:1e-1"])
    assert parsed.lora_path == [("a:b", 1.0), ("a:b", 2.0), (":1", 1.0), ("c", 0.1)]


def test_errors(cli: Cli, tmp_path: Path, adapter: Path) -> None:
    for path, said in (
        (tmp_path / "none", "none"),
        (builtin_model_path(), "whole model"),
        (f"{adapter}:1000", "scale"),
    ):
        status, out, err = cli("run", "x", "--lora", path)
        assert (status, out) == (1, "")
        assert re.fullmatch(rf"densecore: error: .*{said}.*\n", err)
