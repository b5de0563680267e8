"""The Python of docs/MODEL_OPTIMIZATION.md runs as it is printed, but for the number of layers of its model."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from densecore.quantize import ImportanceMatrix
from tests.conftest import shared_path

ROOT = Path(__file__).resolve().parents[2]


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(shared_path("models", "pystd-6m-f16.gguf"), "model-f16.gguf")
    Path("calibration.txt").write_text(shared_path("models", "pystd-val.txt").read_text()[:4000])
    name = "blk.0.attn_q.weight"
    ImportanceMatrix({name: np.ones((1, 256), np.float32)}, {name: np.ones(1, np.float32)}).save("model.imatrix.gguf")
    text = (ROOT / "docs" / "MODEL_OPTIMIZATION.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block.replace("target_n_layer=24", "target_n_layer=4"), "example", "exec"), {})
    shown = capsys.readouterr()
    assert shown.out.startswith("3.09")
    assert "[56/56]" in shown.err
    assert {path.name for path in tmp_path.iterdir()} >= {"model-q4_k_m.gguf", "small.gguf", "smaller.gguf"}
