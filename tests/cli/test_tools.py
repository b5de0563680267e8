"""The commands that make models from models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from densecore.data import builtin_model_path
from densecore.gguf import GGUFFile

from .conftest import Cli

TEXT = "def read(self, size=-1):\n    return self._file.read(size)\n" * 8


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tools") / "text.py"
    path.write_text(TEXT)
    return path


def test_imatrix_quantize_compare(cli: Cli, text: Path, tmp_path: Path) -> None:
    model, matrix, smaller = str(builtin_model_path()), str(tmp_path / "m.gguf"), str(tmp_path / "q4.gguf")
    done = cli("imatrix", model, str(text), "-o", matrix, "-c", "64", "-t", "2")
    assert done.status == 0, done.err
    assert "43 matrices, 2 chunks of 64 tokens" in done.out
    arguments = ("--imatrix", matrix, "--allow-requantize", "--tensor-type", "attn_q=q8_0", "-t", "2")
    done = cli("quantize", model, smaller, "q4_k_s", *arguments)
    assert done.status == 0, done.err
    assert "times smaller" in done.out
    assert "blk.0.ffn_down.weight (768 x 256) Q8_0 -> Q4_K, error" in done.err
    with GGUFFile.open(smaller) as file:
        assert file.tensors["blk.3.attn_q.weight"].type.name == "Q8_0"
    arguments = ("-c", "64", "--json", "-q", "-t", "2")
    done = cli("compare", model, smaller, str(text), *arguments)
    assert done.status == 0, done.err
    base, other = json.loads(done.out)
    assert other["n_bytes"] < base["n_bytes"]
    assert other["kl_mean"] > 0
    assert other["generation_speed"] > 0


def test_what_is_refused(cli: Cli, tmp_path: Path) -> None:
    model, target = str(builtin_model_path()), str(tmp_path / "q4.gguf")
    done = cli("quantize", model, target)
    assert (done.status, target in done.out) == (1, False)
    assert "quantized already" in done.err
    done = cli("quantize", model, target, "q4_x")
    assert done.status == 2
    assert "format must be one of" in done.err
    done = cli("quantize", model, target, "--tensor-type", "abc")
    assert done.status == 2
    assert "REGEX=TYPE" in done.err


def test_prune(cli: Cli, text: Path, tmp_path: Path) -> None:
    model, target = str(builtin_model_path()), str(tmp_path / "small.gguf")
    arguments = ("--layers", "5", "--importance", "activation", "--text", text, "-t", "2")
    done = cli("prune", model, target, *arguments)
    assert done.status == 1
    assert "the text has" in done.err
    text.write_text(TEXT * 4)
    done = cli("prune", model, target, *arguments)
    assert done.status == 0, done.err
    assert done.out.count("kept") == 5
    assert done.out.count("left out") == 1
    assert "calibration: chunk 1 of" in done.err
    with GGUFFile.open(target) as file:
        assert file.metadata["llama.block_count"] == 5
    assert cli("prune", model, target, "--ratio", "2").status == 2
