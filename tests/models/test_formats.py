"""Models in rare formats: logits near those of a twin in F32 whose weights the gguf package dequantized."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.gguf_factory import make_model
from tests.models.running import nmse, open_model, run

SIZES = {"dim": 256, "hidden_dim": 256, "n_layers": 1}
IDS = np.array([5, 17, 203, 64, 9, 130, 77])


def twin_of(path: Path) -> Path:
    """The same model in F32."""
    matrices = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(path).tensors
        if tensor.tensor_type != gguf.GGMLQuantizationType.F32
    }
    assert "token_embd.weight" in matrices
    return make_model(path.with_name("twin.gguf"), tensor_overrides=matrices, **SIZES)


@pytest.mark.parametrize(
    "name",
    ["MXFP4", "NVFP4", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0"],
)
def test_logits_of_a_twin_in_f32(name: str, tmp_path: Path) -> None:
    path = make_model(tmp_path / "model.gguf", tensor_type=name, **SIZES)
    with open_model(path) as model, open_model(twin_of(path)) as twin:
        assert nmse(run(model, IDS), run(twin, IDS)) < 2e-3  # activations are int8
