"""Perplexity against a calculation in numpy, and against llama.cpp's figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from densecore import DenseCore, InvalidConfigError
from densecore.data import builtin_model_path
from densecore.perplexity import measure_perplexity, negative_log_likelihoods
from tests.conftest import shared_path

from .conftest import Cli

TEXT = "def read(self, size=-1):\n    return self._file.read(size)\n" * 8


def reference(logits_of, ids: list[int], n: int, bos_id: int | None) -> tuple[float, float]:
    """Perplexity and its error from the definition, one probability at a time."""
    nlls = []
    for start in range(0, len(ids) - n + 1, n):
        chunk = [*ids[start : start + n]]
        if bos_id is not None:
            chunk[0] = bos_id
        logits = logits_of(chunk).astype(np.longdouble)
        for at in range(n // 2, n - 1):
            probabilities = np.exp(logits[at] - logits[at].max())
            nlls.append(-np.log(probabilities[chunk[at + 1]] / probabilities.sum()))
    value = math.exp(sum(nlls) / len(nlls))
    variance = sum(nll**2 for nll in nlls) / len(nlls) - (sum(nlls) / len(nlls)) ** 2
    return value, value * math.sqrt(variance / (len(nlls) - 1))


@pytest.mark.parametrize("n", [4, 5, 32, 33])
@pytest.mark.parametrize("bos_id", [None, 7])
def test_definition(n: int, bos_id: int | None) -> None:
    rng = np.random.default_rng(n)
    table = rng.normal(0, 20, (50, 64, 50)).astype(np.float32)  # logits that depend on token and position

    def logits_of(chunk):
        return table[chunk, np.arange(len(chunk))]

    ids = rng.integers(0, 50, 101).tolist()
    result = measure_perplexity(logits_of, ids, n, bos_id=bos_id)
    value, error = reference(logits_of, ids, n, bos_id)
    assert result.value == pytest.approx(value, rel=1e-9)
    assert result.standard_error == pytest.approx(error, rel=1e-6)
    assert result.num_chunks == 101 // n
    assert result.num_scored == 101 // n * (n - 1 - n // 2)


def test_uniform_model_is_as_perplexed_as_its_vocabulary_is_large() -> None:
    result = measure_perplexity(lambda chunk: np.zeros((len(chunk), 17), np.float32), [0] * 64, 16)
    assert result.value == pytest.approx(17)
    assert result.standard_error == pytest.approx(0)


def test_large_logits_do_not_overflow() -> None:
    nlls = negative_log_likelihoods(np.array([[3e38, -3e38], [1e4, 1e4]], np.float32), [0, 1])
    assert nlls.tolist() == [0.0, pytest.approx(math.log(2))]


@pytest.mark.parametrize(("num_tokens", "n", "said"), [(100, 3, "at least 4"), (10, 16, "10 tokens")])
def test_refuses(num_tokens: int, n: int, said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said):
        measure_perplexity(lambda chunk: np.zeros((len(chunk), 2)), [0] * num_tokens, n)


def test_progress_counts_chunks() -> None:
    seen = []
    measure_perplexity(
        lambda chunk: np.zeros((len(chunk), 2), np.float32),
        [0] * 40,
        10,
        progress=lambda done, total, value: seen.append((done, total, value)),
    )
    assert [entry[:2] for entry in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert seen[-1][2] == pytest.approx(2)


def test_command_measures_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "text.py").write_text(TEXT)
    with DenseCore(builtin_model_path()) as model:
        ids = [model.tokenizer.bos_id, *model.tokenize(TEXT)]
        value, error = reference(model.forward, ids, 32, model.tokenizer.bos_id)
    status, out, err = cli("perplexity", tmp_path / "text.py", "--ctx-size", "32")
    assert (status, out) == (0, f"perplexity {value:.4f} +- {error:.4f}\n")
    assert "chunk " in err
    status, out, err = cli("perplexity", "-", "--ctx-size", "32", "--json", "--quiet", stdin=TEXT)
    assert (status, err) == (0, "")
    figures = json.loads(out)
    assert figures["perplexity"] == pytest.approx(value)
    assert figures["num_chunks"] == len(ids) // 32


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["/no/such/text"], "/no/such/text: No such file"), (["-"], "the text has"), (["-", "-c", "3"], "at least 4")],
    ids=["no file", "short text", "short chunk"],
)
def test_errors(cli: Cli, arguments: list[str], said: str) -> None:
    status, out, err = cli("perplexity", *arguments, "-q", stdin="too short")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert said in err


@pytest.mark.parametrize(("name", "expected", "tolerance"), [("f16", 15.5349, 0.001), ("q8_0", 15.5402, 0.003)])
def test_llama_cpp_agrees(cli: Cli, name: str, expected: float, tolerance: float) -> None:
    """The figures of README-pystd.md, over 32768 tokens."""
    model, text = shared_path("models", f"pystd-6m-{name}.gguf"), shared_path("models", "pystd-val.txt")
    status, out, _ = cli("perplexity", "-m", model, text, "--json", "-q")
    assert status == 0
    figures = json.loads(out)
    assert figures["perplexity"] == pytest.approx(expected, rel=tolerance)
    assert figures["standard_error"] == pytest.approx(0.33, abs=0.01)
