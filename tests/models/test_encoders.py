"""Encoders against recorded hidden states of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from densecore.gguf import GGUFFile
from densecore.models import EncoderBatch, load_any

ARCHS = Path(__file__).resolve().parents[2].parent / "shared" / "archs"


def hidden(path: Path, *texts) -> list[np.ndarray]:
    with GGUFFile.open(path) as file:
        model = load_any(file)
        batch = EncoderBatch.pack(texts)
        states = model.forward(batch, 2).copy()
    return np.split(states, batch.starts[1:-1])


@pytest.mark.skipif(not ARCHS.exists(), reason="needs the shared recordings")
def test_bert_is_that_of_transformers():
    recorded = np.load(ARCHS / "bert-f32.npz")
    (states,) = hidden(ARCHS / "bert-f32.gguf", recorded["ids"])
    assert np.abs(states - recorded["hidden_hf"]).max() < 1e-4
    assert np.abs(states.mean(0) - recorded["emb_hf"]).max() < 1e-4
