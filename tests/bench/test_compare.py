"""The comparison: what is asked for, what is made of the answers, and the processes that answer."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.children import Child
from bench.compare import Case, Comparison, model_path
from densecore import DenseCore
from densecore.data import builtin_model_path

ROOT = Path(__file__).resolve().parents[2]
OWN = [sys.executable, "-m", "bench.own", builtin_model_path(), 1]


@pytest.mark.parametrize(
    ("name", "fields"),  # prompt, generated, depth, sequences
    [
        ("pp512", (512, 0, 0, 1)),
        ("pp32@4096", (32, 0, 4096, 1)),
        ("tg", (0, 16, 0, 1)),
        ("tg@4096", (0, 16, 4096, 1)),
        ("tgx8", (0, 16, 0, 8)),
        ("tg@512x4", (0, 16, 512, 4)),
    ],
)
def test_names_of_tests(name: str, fields: tuple[int, ...]) -> None:
    test = Case.parse(name, 16)
    assert (test.prompt, test.generated, test.depth, test.sequences) == fields
    assert test.num_tokens == (fields[0] or 16 * fields[3])


@pytest.mark.parametrize("name", ["", "pp", "pp0", "tgx0", "tg16", "pp512x2", "pp-1", "tg@", "x8"])
def test_names_that_mean_nothing(name: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a test such as"):
        Case.parse(name, 16)


def test_table_shows_medians_and_the_spread_of_ratios_of_calm_rounds() -> None:
    rates = {
        "tg": {"DenseCore": [10.0, 30.0, 90.0, 20.0], "llama.cpp": [10.0] * 4},
        "tgx2": {"DenseCore": [10.0, 30.0], "llama.cpp": [10.0] * 2},
    }
    loads = {"tg": [0.0, 0.05, 0.9, 0.0], "tgx2": [0.9, 0.2]}
    assert Comparison("m", 0.0, 0.0, rates, loads).table().splitlines() == [
        "| test | DenseCore, t/s | llama.cpp, t/s | ratio, min | median |  max | calm rounds |",
        "|------|---------------:|---------------:|-----------:|-------:|-----:|------------:|",
        "| tg   |           20.0 |           10.0 |       1.00 |   2.00 | 3.00 |      3 of 4 |",
        "| tgx2 |           20.0 |           10.0 |       1.00 |   2.00 | 3.00 |      0 of 2 |",
    ]


def test_own_child_computes_what_the_library_does(tmp_path: Path) -> None:
    with Child(OWN) as child:
        assert child.head["n_vocab"] == 4096
        child.ask("logits", token_ids=[1, 2, 3], path=str(tmp_path / "logits.npy"))
        assert child.ask("prefill", num_tokens=8, depth=0, room=8) > 0
        assert child.ask("decode", num_tokens=2, depth=8, num_sequences=2, room=8) > 0
        assert child.cpu_seconds() > 0
    with DenseCore(str(builtin_model_path()), max_model_len=64) as model:
        np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), model.forward([1, 2, 3]))


def test_child_that_dies_says_why() -> None:
    with pytest.raises(SystemExit, match="the reason"):
        Child([sys.executable, "-c", "raise SystemExit('the reason')"])


def test_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"qwen9:Q4_0: no such file, nor SHAPE:TYPE"):
        model_path("qwen9:Q4_0", tmp_path)


def test_whole_comparison() -> None:
    pytest.importorskip("llama_cpp")
    command = [sys.executable, "-m", "bench.compare", str(builtin_model_path()), "--tests", "pp8,tg@8,tgx2"]
    options = ["--threads", "1", "--rounds", "2", "--tokens", "2", "--json"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=True)
    (result,) = json.loads(done.stdout)["results"]
    assert result["nmse"] < 1e-2
    assert {test: len(ratios) for test, ratios in result["ratios"].items()} == {"pp8": 2, "tg@8": 2, "tgx2": 2}
