"""What llama.cpp makes of our files, and how its own quantizer does beside ours. Needs llama-cpp-python."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import numpy as np
import pytest

from densecore import DenseCore
from densecore.gguf import GGUFFile
from densecore.kernels.formats import FORMATS
from densecore.perplexity import measure_perplexity, negative_log_likelihoods, split_into_chunks
from densecore.prune import PruneConfig, prune_model
from densecore.quantize import QuantConfig, quantize_model
from densecore.quantize.mixes import MIXES
from tests.conftest import shared_path

llama_cpp = pytest.importorskip("llama_cpp")
NUM_CHUNKS = 4  # of 256 tokens
OWN = ("f32", "f16", "q2_k_l", "q4_k_l", "q5_k_l", "q6_k_l")  # nothing to compare, or mixes that it does not have


@pytest.fixture(scope="module", autouse=True)
def _silence():
    callback = llama_cpp.llama_log_callback(lambda *arguments: None)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    yield
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), ctypes.c_void_p(0))


def chunks() -> tuple[list[int], int]:
    text = shared_path("models", "pystd-val.txt").read_text()[:8000]
    with DenseCore(shared_path("models", "pystd-6m-f16.gguf")) as model:
        return model.tokenizer.encode(text, add_special=True)[: 256 * NUM_CHUNKS], model.tokenizer.bos_id


def perplexities(path: Path) -> tuple[float, float]:
    """Ours and llama.cpp's."""
    ids, bos_id = chunks()
    with DenseCore(path) as model:
        ours = measure_perplexity(model.forward, ids, 256, bos_id=bos_id).value
    theirs = llama_cpp.Llama(str(path), n_ctx=256, n_batch=256, logits_all=True, verbose=False)
    nlls = []
    for chunk in split_into_chunks(ids, 256, bos_id):
        theirs.reset()
        theirs.eval(chunk)
        nlls.append(negative_log_likelihoods(np.array(theirs.scores[128:255]), chunk[129:]))
    theirs.close()
    return ours, math.exp(np.concatenate(nlls).mean())


@pytest.mark.parametrize("name", ["q4_k_m", "q3_k_m", "q2_k", "q6_k", "iq4_xs", "q4_0", "q5_1"])
def test_quantized_models_are_the_same_there(name: str, tmp_path: Path) -> None:
    quantize_model(shared_path("models", "pystd-6m-f16.gguf"), tmp_path / "q.gguf", QuantConfig(name))
    ours, theirs = perplexities(tmp_path / "q.gguf")
    assert theirs == pytest.approx(ours, rel=0.005)


@pytest.mark.parametrize("strategy", ["depth", "width", "attention", "combined"])
def test_pruned_models_are_the_same_there(strategy: str, tmp_path: Path) -> None:
    prune_model(shared_path("models", "pystd-6m-f16.gguf"), tmp_path / "p.gguf", PruneConfig(strategy))
    ours, theirs = perplexities(tmp_path / "p.gguf")
    assert theirs == pytest.approx(ours, rel=0.005)


@pytest.mark.parametrize("name", [name for name in MIXES if name not in OWN])
def test_errors_on_real_weights_are_at_most_those_of_its_tool(name: str, tmp_path: Path) -> None:
    if name == "q2_k_s":
        pytest.skip("llama.cpp refuses it without an importance matrix")
    source = shared_path("models", "pystd-6m-f16.gguf")
    quantize_model(source, tmp_path / "ours.gguf", QuantConfig(name))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = MIXES[name].file_type
    target = str(tmp_path / "theirs.gguf").encode()
    assert llama_cpp.llama_model_quantize(str(source).encode(), target, ctypes.byref(parameters)) == 0
    with (
        GGUFFile.open(source) as original,
        GGUFFile.open(tmp_path / "ours.gguf") as ours,
        GGUFFile.open(tmp_path / "theirs.gguf") as theirs,
    ):
        for tensor in original.tensors.values():
            assert ours.tensors[tensor.name].type is theirs.tensors[tensor.name].type
            x = values(original, tensor.name)
            errors = [
                np.square(values(file, tensor.name) - x, dtype=np.float64).mean() ** 0.5 for file in (ours, theirs)
            ]
            assert errors[0] <= 1.01 * errors[1], tensor.name


def values(file: GGUFFile, name: str) -> np.ndarray:
    fmt = FORMATS[file.tensors[name].type.name]
    return fmt.dequantize_ref(file.tensor_data(name).reshape(-1, fmt.type_size)).reshape(-1)
