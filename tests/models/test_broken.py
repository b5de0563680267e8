"""Files whose configuration or tensors do not fit together: each is refused at load, by name, in a child process."""

from __future__ import annotations

import numpy as np
import pytest

from tests.broken_files import FileOpener, check_refused
from tests.gguf_factory import make_model

NAN, INF = np.float32(np.nan), np.float32(np.inf)
U32, F32 = np.uint32, np.float32


def key(name, value, *words):
    """A metadata value and the words that the refusal must contain."""
    return {"metadata_overrides": {f"llama.{name}": value}}, (name.split(".")[-1], *words)


def without(name, *words):
    return {"drop": [name]}, (name, *words)


EPSILON = "attention.layer_norm_rms_epsilon"
CASES = {
    "block_count-0": key("block_count", U32(0), "0"),
    "block_count-huge": key("block_count", U32(2**32 - 1), "4294967295"),
    "block_count-more-than-tensors": ({"metadata_overrides": {"llama.block_count": U32(3)}}, ("blk.2.", "missing")),
    "block_count-fewer-than-tensors": (
        {"metadata_overrides": {"llama.block_count": U32(1)}},
        ("blk.1.", "not part of"),
    ),
    "block_count-text": key("block_count", "two"),
    "block_count-negative": key("block_count", np.int32(-1), "-1"),
    "block_count-float": key("block_count", F32(2)),
    "embedding_length-0": key("embedding_length", U32(0)),
    "embedding_length-other": ({"metadata_overrides": {"llama.embedding_length": U32(128)}}, ("token_embd", "128")),
    "embedding_length-huge": key("embedding_length", np.uint64(2**63)),
    "embedding_length-not-divisible": (
        {"metadata_overrides": {"llama.embedding_length": U32(65)}, "drop": ["llama.attention.key_length"]},
        ("embedding_length", "65", "multiple of"),
    ),
    "feed_forward_length-0": key("feed_forward_length", U32(0)),
    "feed_forward_length-other": ({"metadata_overrides": {"llama.feed_forward_length": U32(97)}}, ("ffn_gate", "97")),
    "head_count-0": key("attention.head_count", U32(0)),
    "head_count-not-a-multiple-of-kv": key("attention.head_count", U32(3), "not a multiple"),
    "head_count-array": key("attention.head_count", np.array([4, 4], np.int32)),
    "head_count_kv-0": key("attention.head_count_kv", U32(0)),
    "head_count_kv-more-than-heads": key("attention.head_count_kv", U32(8), "multiple"),
    "head_count_kv-other": ({"metadata_overrides": {"llama.attention.head_count_kv": U32(1)}}, ("attn_k", "shape")),
    "key_length-0": key("attention.key_length", U32(0)),
    "key_length-other": ({"metadata_overrides": {"llama.attention.key_length": U32(32)}}, ("length",)),
    "value_length-other": key("attention.value_length", U32(32), "key_length"),
    "context_length-0": key("context_length", U32(0)),
    "context_length-huge": key("context_length", U32(2**32 - 1)),
    "rope-dimension-0": key("rope.dimension_count", U32(0)),
    "rope-dimension-odd": key("rope.dimension_count", U32(7), "even"),
    "rope-dimension-more-than-head": key("rope.dimension_count", U32(18), "16"),
    "epsilon-0": key(EPSILON, F32(0)),
    "epsilon-negative": key(EPSILON, F32(-1e-5)),
    "epsilon-nan": key(EPSILON, NAN, "nan"),
    "epsilon-inf": key(EPSILON, INF, "inf"),
    "freq_base-0": key("rope.freq_base", F32(0)),
    "freq_base-negative": key("rope.freq_base", F32(-1)),
    "freq_base-nan": key("rope.freq_base", NAN, "nan"),
    "freq_base-inf": key("rope.freq_base", INF, "inf"),
    "scaling-unknown": key("rope.scaling.type", "dynamic", "dynamic", "yarn"),
    "scaling-factor-0": key("rope.scaling.factor", F32(0)),
    "scaling-factor-nan": key("rope.scaling.factor", NAN),
    "yarn-base-1": (
        {"metadata_overrides": {"llama.rope.scaling.type": "yarn", "llama.rope.freq_base": F32(1)}},
        ("freq_base", "above 1"),
    ),
    "yarn-beta-0": key("rope.scaling.yarn_beta_fast", F32(0)),
    "architecture-unknown": ({"metadata_overrides": {"general.architecture": "rwkv"}}, ("rwkv", "supported are")),
    "architecture-number": ({"metadata_overrides": {"general.architecture": U32(3)}}, ("general.architecture",)),
    "architecture-missing": without("general.architecture"),
    "missing-block_count": without("llama.block_count"),
    "missing-embedding_length": without("llama.embedding_length"),
    "missing-feed_forward_length": without("llama.feed_forward_length"),
    "missing-head_count": without("llama.attention.head_count"),
    "missing-epsilon": without(f"llama.{EPSILON}"),
    "missing-context_length": without("llama.context_length"),
    "missing-token_embd": without("token_embd.weight", "missing"),
    "missing-output_norm": without("output_norm.weight", "missing"),
    "missing-attn_q": without("blk.1.attn_q.weight", "missing"),
    "missing-ffn_down": without("blk.0.ffn_down.weight", "missing"),
    "missing-attn_norm": without("blk.0.attn_norm.weight", "missing"),
    "extra-tensor": (
        {"tensor_overrides": {"blk.0.ffn_gate_inp.weight": np.ones((4, 64), F32)}},
        ("ffn_gate_inp", "not part of"),
    ),
    "shape-swapped": ({"tensor_overrides": {"blk.0.ffn_down.weight": np.ones((96, 64), F32)}}, ("ffn_down", "shape")),
    "shape-norm": ({"tensor_overrides": {"output_norm.weight": np.ones(63, F32)}}, ("output_norm", "63", "64")),
    "shape-embedding-1d": ({"tensor_overrides": {"token_embd.weight": np.ones(64, F32)}}, ("token_embd",)),
    "shape-rope-freqs": ({"tensor_overrides": {"rope_freqs.weight": np.ones(5, F32)}}, ("rope_freqs", "shape")),
    "fewer-rows-than-tokens": ({"tensor_overrides": {"token_embd.weight": np.ones((5, 64), F32)}}, ("token_embd", "5")),
    "type-without-kernel": (
        {"tensor_types": {"blk.0.attn_q.weight": "I32"}},
        ("blk.0.attn_q.weight", "I32", "no kernel"),
    ),
    "norm-quantized": ({"tensor_types": {"output_norm.weight": "Q8_0"}}, ("output_norm", "Q8_0")),
}


@pytest.fixture(scope="module")
def opener():
    with FileOpener("tests.models.running:load_and_close", memory=None) as opened:
        yield opened


@pytest.mark.parametrize("case", CASES)
def test_refused(opener, tmp_path, case):
    change, words = CASES[case]
    check_refused(opener.open(make_model(tmp_path / "broken.gguf", **change)), *words)


def test_the_unbroken_model_opens(opener, tmp_path):
    assert opener.open(make_model(tmp_path / "fine.gguf")).kind == "opened"


def test_missing_biases_of_qwen2(opener, tmp_path):
    path = make_model(tmp_path / "broken.gguf", "qwen2", drop=["blk.0.attn_k.bias"])
    check_refused(opener.open(path), "blk.0.attn_k.bias", "missing")
