"""Adapters that cannot be used are refused by one clear error, and leave the model as it was."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from densecore.exceptions import DenseCoreError, ModelLoadError
from densecore.models import load_adapter
from tests.gguf_factory import make_model
from tests.lora_factory import make_adapter
from tests.models.running import open_model

Q_A, Q_B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"
DIM, RANK = 64, 4


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("base") / "base.gguf", dim=DIM)


@pytest.fixture(scope="module")
def model(base):
    with open_model(base) as opened:
        yield opened


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def with_value(value: float) -> dict:
    return {"overrides": {Q_A: np.full((RANK, DIM), value, np.float32)}}


# name -> arguments of make_adapter, and what the message says
CASES = {
    "whole-model": ({"metadata": {"general.type": "model"}}, r"'model'.*DenseCore\(\.\.\.\)"),
    "no-type": ({"metadata": {"general.type": None}}, r"general\.type.*'model'"),
    "control-vector": ({"metadata": {"adapter.type": "control_vector"}}, r"adapter\.type.*'control_vector'.*'lora'"),
    "no-adapter-type": ({"metadata": {"adapter.type": None}}, r"adapter\.type.*missing"),
    "type-is-a-number": ({"metadata": {"adapter.type": 1.0}}, r"adapter\.type"),
    "other-architecture": (
        {"metadata": {"general.architecture": "qwen2"}},
        "'qwen2'.*'llama'.*an adapter that was trained for",
    ),
    "activated": ({"metadata": {"adapter.alora.invocation_tokens": "x"}}, "activated LoRA"),
    "alpha-nan": ({"alpha": float("nan")}, r"alpha.*nan.*finite"),
    "alpha-infinite": ({"alpha": float("inf")}, r"alpha.*inf.*finite"),
    "alpha-is-text": ({"alpha": None, "metadata": {"adapter.lora.alpha": "8"}}, "alpha.*'8'.*number"),
    "a-missing": ({"drop": [Q_A]}, r"attn_q\.weight\.lora_a is missing, half of a pair"),
    "b-missing": ({"drop": [Q_B]}, r"attn_q\.weight\.lora_b is missing, half of a pair"),
    "nothing": ({"names": []}, "no tensors"),
    "not-a-pair": ({"overrides": {"blk.0.attn_q.weight": ones(DIM, DIM)}}, "no part of a LoRA pair"),
    "trained-norm": ({"overrides": {"blk.0.attn_norm.weight": ones(DIM)}}, "no part of a LoRA pair.*merge the adapter"),
    "unknown-layer": ({"names": ["blk.7.attn_q"]}, r"blk\.7\.attn_q\.weight.*does not have"),
    "norm-as-pair": ({"names": ["output_norm"]}, r"output_norm\.weight.*does not have as a matrix"),
    "a-too-narrow": ({"overrides": {Q_A: ones(RANK, 32)}}, r"lora_a has shape \(4, 32\).*\(4, 64\)"),
    "a-other-rank": ({"overrides": {Q_A: ones(5, DIM)}}, r"lora_a has shape \(5, 64\).*\(4, 64\)"),
    "b-too-short": ({"overrides": {Q_B: ones(63, RANK)}}, r"lora_b has shape \(63, 4\).*\(64, 4\)"),
    "transposed": ({"overrides": {Q_A: ones(DIM, RANK), Q_B: ones(RANK, DIM)}}, r"lora_a has shape \(64, 4\)"),
    "three-axes": ({"overrides": {Q_A: ones(2, RANK, DIM)}}, r"shape \(64, 4, 2\); expected a matrix"),
    "rank-too-high": ({"overrides": {Q_A: ones(4097, DIM), Q_B: ones(DIM, 4097)}}, "rank 4097; allowed: 1 to 4096"),
    "integers": ({"overrides": {Q_A: np.ones((RANK, DIM), np.int32)}}, "type I32, which cannot be read"),
    "embedding-as-others": (
        {"overrides": {"token_embd.weight.lora_a": ones(RANK, DIM), "token_embd.weight.lora_b": ones(323, RANK)}},
        r"token_embd\.weight\.lora_",
    ),
    "nan": (with_value(np.nan), "lora_a holds NaN or infinity"),
    "infinity": (with_value(-np.inf), "lora_a holds NaN or infinity"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(tmp_path, base, model, case):
    arguments, message = CASES[case]
    path = make_adapter(tmp_path / "adapter.gguf", base, **{"rank": RANK} | arguments)
    with pytest.raises(ModelLoadError, match=message) as caught:
        load_adapter(path, model)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rank_0(tmp_path, base, model):
    """The reader refuses an axis of length 0."""
    path = make_adapter(tmp_path / "adapter.gguf", base, rank=1)
    content = bytearray(path.read_bytes())
    place = content.index(Q_B.encode()) + len(Q_B) + 4  # behind the name and the number of axes
    assert int.from_bytes(content[place : place + 8], "little") == 1
    content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match="is 0; allowed: at least 1"):
        load_adapter(path, model)


@pytest.mark.parametrize("name", ["nothing.gguf", "."])
def test_no_file(tmp_path, model, name):
    with pytest.raises(ModelLoadError):
        load_adapter(tmp_path / name, model)


def test_a_model_is_no_adapter(base, model):
    with pytest.raises(ModelLoadError, match="the path of a whole model"):
        load_adapter(base, model)


def test_truncated_anywhere(tmp_path, base, model):
    whole = make_adapter(tmp_path / "whole.gguf", base, rank=RANK).read_bytes()
    path = tmp_path / "part.gguf"
    for size in [*range(0, 4000, 61), *range(4000, len(whole), 4001), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelLoadError):
            load_adapter(path, model)


def test_changed_bytes(tmp_path, base, model):
    """An adapter whose head is damaged is refused, or happens to be one still."""
    whole = make_adapter(tmp_path / "whole.gguf", base, rank=RANK).read_bytes()
    head = whole.index(Q_B.encode()) + 100
    path, rng, refused = tmp_path / "changed.gguf", np.random.default_rng(0), 0
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.integers(0, head, rng.integers(1, 4)):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            load_adapter(path, model)
        except DenseCoreError:
            refused += 1
    assert refused > 100


def test_rank_1_without_its_axis(tmp_path, base, model):
    """ggml leaves out axes of length 1 at the end: A (1, n_in) may be a vector in a file."""
    writer = gguf.GGUFWriter(tmp_path / "adapter.gguf", "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_tensor(Q_A, ones(DIM))
    writer.add_tensor(Q_B, ones(DIM, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    pair = load_adapter(tmp_path / "adapter.gguf", model).pairs["blk.0.attn_q"]
    assert (pair.a.shape, pair.b.shape, pair.multiplier) == ((1, DIM), (1, DIM), 1.0)
