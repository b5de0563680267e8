"""The benchmarks of the engine run, on tiny models."""

from __future__ import annotations

import random

import pytest

from bench import serving, soak
from densecore import DenseCore
from tests.gguf_factory import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = make_model(tmp_path_factory.mktemp("models") / "m.gguf", n_layers=1, max_len=1024, vocab="gpt2")
    with DenseCore(path, max_num_seqs=8) as opened:
        yield opened


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch):
    monkeypatch.setattr(serving, "prompt", lambda model, length, rng: [rng.randrange(20, 90) for _ in range(length)])


def test_second_turn(model):
    rows = serving.second_turn(model, 200, random.Random(0))
    assert rows[0][0] == "first turn of 200 tokens, 0 cached"
    assert rows[1][0] == "second turn of 304 tokens, 263 cached"


def test_beside_a_prompt(model):
    rows = serving.beside_a_prompt(model, 900, 2, random.Random(0))
    assert [row[0] for row in rows][1] == "beside a prompt of 900 tokens"
    assert all(float(row[1].split()[0]) > 0 for row in rows)


def test_throughput_and_overhead(model):
    assert serving.throughput(model, 4, random.Random(0))[0][0].startswith("4 requests, ")
    rows = serving.overhead(model, 4, random.Random(0))
    assert all(0 < float(row[1].split()[0]) < 100 for row in rows)


def test_soak(capsys):
    with DenseCore(soak.builtin_model_path()) as builtin:
        problems = soak.soak(builtin, 3, 8)
    assert [problem for problem in problems if not problem.startswith("memory")] == []
    assert "given up" in capsys.readouterr().out
