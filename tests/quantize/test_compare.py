"""Figures of a comparison, against numpy."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from densecore import DenseCore
from densecore.compare import compare_models, comparison_table, kl_divergences, plot_comparison
from densecore.data import builtin_model_path
from densecore.perplexity import measure_perplexity
from densecore.quantize import QuantConfig, quantize_model

TEXT = "def read(self, size=-1):\n    return self._file.read(size)\n" * 8


@pytest.fixture(scope="module")
def smaller(tmp_path_factory) -> Path:
    """The built-in model in 4 bits: its matrices are of kinds that other tests have compiled kernels for."""
    path = tmp_path_factory.mktemp("compare") / "q4.gguf"
    quantize_model(builtin_model_path(), path, QuantConfig("q4_k_s", allow_requantize=True))
    return path


def test_divergence_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((5, 100)).astype(np.float32) * 3 for _ in range(2))
    p, q = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(1, keepdims=True) for x in (a, b))
    np.testing.assert_allclose(kl_divergences(a, b), (p * np.log(p / q)).sum(1), rtol=1e-9)
    assert (kl_divergences(a, a) == 0).all()
    assert (kl_divergences(a, a + np.float32(1000)) < 1e-6).all()


def test_models_beside_each_other(smaller: Path, tmp_path: Path) -> None:
    paths = [builtin_model_path(), smaller]
    done = []
    with DenseCore(paths[0]) as a, DenseCore(paths[1]) as b:
        base, other = compare_models([a, b], paths, TEXT, 64, progress=lambda *n: done.append(n))
        ids = b.tokenizer.encode(TEXT, add_special=True, parse_special=False)
        alone = measure_perplexity(b.forward, ids, 64, bos_id=b.tokenizer.bos_id)
        same = compare_models([a, a], paths[:1] * 2, TEXT, 64)[1]
    assert done[-1] == (alone.num_chunks, alone.num_chunks)
    assert other.perplexity == alone
    assert base.kl_mean is None
    assert 0 < other.kl_mean < other.kl_99
    assert 0.5 < other.top_1 <= 1
    assert (same.kl_mean, same.top_1) == (0, 1)
    if importlib.util.find_spec("matplotlib"):
        plot_comparison(tmp_path / "sizes.png", [base, other])
        assert (tmp_path / "sizes.png").read_bytes().startswith(b"\x89PNG")
    table = comparison_table([base, other])
    assert table.count("\n") == 3
    assert "q4.gguf" in table.splitlines()[3]
