"""The benchmarks of the engine run, on tiny models."""

from __future__ import annotations

import random
import sys

import pytest

from bench import serving, soak, speculation, throughput, tick
from bench.children import Child
from bench.compare import OWN
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


def test_throughput(model):
    assert serving.throughput(model, 4, random.Random(0))[0][0].startswith("4 requests, ")


def test_parts_of_a_step(model, monkeypatch):
    monkeypatch.setattr(tick, "prompt", serving.prompt)
    before = model._engine.step
    rows = tick.table(model, 4, 20, random.Random(0))
    assert [row[0] for row in rows] == list(tick.CONFIGURATIONS)
    for _, *parts, beside, compute in rows:
        assert 0 < sum(map(float, parts)) <= float(beside) + 0.1
        assert float(compute) > 0
    assert model._engine.step == before


class Recorded:
    """A child that takes so long for each request."""

    def __init__(self, seconds):
        self.seconds, self.asked = iter(seconds), []

    def ask(self, call, **arguments):
        self.asked.append((call, arguments))
        return 1e9 * next(self.seconds)


def test_comparison_with_a_peer():
    own, peer = Recorded([1.0, 2.0]), Recorded([3.0, 4.0])
    lengths = throughput.mixed_lengths(4, (5, 9), (2, 3))
    assert lengths == throughput.mixed_lengths(4, (5, 9), (2, 3))
    assert all(5 <= prompt <= 9 and 2 <= output <= 3 for prompt, output in lengths)
    row = throughput.measure(own, peer, lengths, 2)
    output = sum(length for _, length in lengths)
    assert row[1:] == [f"{output / 1.5:.1f}", f"{output / 3.5:.1f}", "2.00", "2.50", "3.00"]
    assert [call for call, _ in own.asked + peer.asked] == ["serve"] * 4


def test_own_side_of_the_comparison():
    """The other side needs llama_cpp, which tests do without."""
    with Child([sys.executable, "-m", OWN, soak.builtin_model_path(), 1]) as own:
        assert own.ask("serve", lengths=[(20, 3), (30, 5)]) > 0


def test_soak(capsys):
    with DenseCore(soak.builtin_model_path()) as builtin:
        problems = soak.soak(builtin, 3, 8)
    assert [problem for problem in problems if not problem.startswith("memory")] == []
    assert "given up" in capsys.readouterr().out


def test_speculation():
    with (
        DenseCore(soak.builtin_model_path(), max_num_seqs=1) as plain,
        DenseCore(soak.builtin_model_path(), max_num_seqs=1, speculation="prompt-lookup") as guessing,
    ):
        guessing._engine.speculation.adaptive = False
        pieces = speculation.prompts(plain, "import os\nimport sys\n" * 20, 2, 30)
        rows = speculation.compare({"without": plain, "lookup": guessing}, pieces, 20, 1)
        with pytest.raises(SystemExit, match="too few for 100 prompts"):
            speculation.prompts(plain, "import os", 100, 30)
    assert [row[0] for row in rows] == ["without", "lookup"]
    assert rows[0][2:] == ["1.00", ""]
    assert " of " in rows[1][3]
