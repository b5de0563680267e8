"""Without the compiler the readable twins compute the same: slow, and every line open to a debugger."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.encoder_factory import make_encoder
from tests.gguf_factory import make_model
from tests.models.expert_files import mixtral
from tests.models.running import nmse, open_model, run

SCRIPT = """
import sys
import numpy as np
from tests.models.running import open_model, run
path, out, kv, *ids = sys.argv[1:]
with open_model(path) as model:
    np.save(out, run(model, list(map(int, ids)), kv=kv))
assert not hasattr(sys.modules["densecore.kernels.plan"].work, "signatures"), "something was compiled"
"""


ENCODER_SCRIPT = """
import sys
import numpy as np
from densecore.gguf import GGUFFile
from densecore.models import EncoderBatch, load_any
path, out, *ids = sys.argv[1:]
with GGUFFile.open(path) as file:
    np.save(out, load_any(file).forward(EncoderBatch.pack([list(map(int, ids))]), 1))
"""


@pytest.mark.parametrize("tensor_type", ["F32", "Q8_0"])
def test_twins_compute_the_encoder(tmp_path, tensor_type):
    path = make_encoder(tmp_path / "model.gguf", dim=32, hidden_dim=32, n_heads=2, n_layers=1, tensor_type=tensor_type)
    results = []
    for disabled in ("0", "1"):
        command = [sys.executable, "-c", ENCODER_SCRIPT, str(path), str(tmp_path / "states.npy"), "5", "6", "7"]
        subprocess.run(command, env=os.environ | {"NUMBA_DISABLE_JIT": disabled}, check=True)
        results.append(np.load(tmp_path / "states.npy"))
    assert nmse(*results) < 1e-9


@pytest.mark.parametrize(("tensor_type", "kv"), [("F32", "f32"), ("Q8_0", "f32"), ("F32", "q8_0")])
def test_twins_compute_the_model(tmp_path, tensor_type, kv):
    sizes = {"dim": 32, "hidden_dim": 32, "n_heads": 2, "n_kv_heads": 1, "n_layers": 1}
    path = make_model(tmp_path / "model.gguf", "qwen3", tensor_type=tensor_type, **sizes)
    with open_model(path) as model:
        compiled = run(model, [5, 6, 7], kv=kv)
    assert nmse(by_twins(path, tmp_path, kv), compiled) < 1e-9


def by_twins(path, folder, kv="f32"):
    command = [sys.executable, "-c", SCRIPT, str(path), str(folder / "logits.npy"), kv, "5", "6", "7"]
    subprocess.run(command, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, check=True)
    return np.load(folder / "logits.npy")


def test_twins_compute_experts(tmp_path):
    sizes = {"dim": 32, "hidden_dim": 32, "n_layers": 1}
    arguments = mixtral(**sizes) | {"tensor_types": {"*_exps.weight": "Q8_0"}}
    path = make_model(tmp_path / "model.gguf", n_heads=2, n_kv_heads=1, **arguments)
    with open_model(path) as model:
        compiled = run(model, [5, 6, 7])
    assert nmse(by_twins(path, tmp_path), compiled) < 1e-9
