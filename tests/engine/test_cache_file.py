"""Saved caches: what was computed in one engine goes on in another, and nothing wrong is taken."""

from __future__ import annotations

import json
import struct

import pytest

from densecore import DenseCore
from densecore.exceptions import DenseCoreError, InvalidConfigError, ModelLoadError
from tests.engine.waiting import wait_until_idle
from tests.gguf_factory import make_model

GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "logit_bias": {2: -100}}
PROMPT = [5 + i % 50 for i in range(150)]


@pytest.fixture(scope="module")
def saved(tiny_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "cache.kv"
    with DenseCore(tiny_path) as model:
        assert model.save_cache(PROMPT, path) == 150
    assert [other.name for other in path.parent.iterdir()] == ["cache.kv"]
    return path


def test_goes_on_with_the_same_bits(tiny, tiny_path, saved):
    expected = tiny.complete([*PROMPT, 9, 8], max_tokens=20, **GREEDY)
    with DenseCore(tiny_path) as model:
        assert model.load_cache(saved) == PROMPT
        wait_until_idle(model)
        result = model.complete([*PROMPT, 9, 8], max_tokens=20, **GREEDY)
        assert result.token_ids == expected.token_ids
        assert result.usage.cached_tokens == 150
        assert model.complete(PROMPT, max_tokens=1, cache_salt="other").usage.cached_tokens == 0
        assert model.load_cache(saved, cache_salt="other") == PROMPT  # twice is no harm
        assert model.complete(PROMPT, max_tokens=1, cache_salt="other").usage.cached_tokens == 149


def test_a_conversation_is_saved_with_its_output(tiny, tiny_path, tmp_path):
    result = tiny.complete(PROMPT, max_tokens=20, **GREEDY)
    assert tiny.save_cache(PROMPT + result.token_ids, tmp_path / "a") == 170
    with DenseCore(tiny_path) as model:
        assert model.load_cache(tmp_path / "a") == PROMPT + result.token_ids


@pytest.mark.parametrize(
    ("options", "name"), [({"block_size": 16}, "block_size"), ({"kv_cache_dtype": "f32"}, "kv_cache_dtype")]
)
def test_other_settings(tiny_path, saved, options, name):
    with DenseCore(tiny_path, **options) as model, pytest.raises(ModelLoadError, match=f"saved with {name}"):
        model.load_cache(saved)


def test_another_model(tmp_path, saved):
    path = make_model(tmp_path / "m.gguf", n_layers=1, seed=1)
    with DenseCore(path) as model, pytest.raises(ModelLoadError, match="saved with model"):
        model.load_cache(saved)


def test_no_room(tiny_path, saved):
    with DenseCore(tiny_path, max_model_len=64) as model, pytest.raises(ModelLoadError, match="num_tokens is 150"):
        model.load_cache(saved)
    with DenseCore(tiny_path, max_num_seqs=1) as model, model.stream([5] * 200, max_tokens=50, **GREEDY) as stream:
        next(stream)
        with pytest.raises(InvalidConfigError, match="150 saved tokens need 5 blocks"):
            model.load_cache(saved)


def test_without_prefix_caching(tiny_path, saved, tmp_path):
    with DenseCore(tiny_path, prefix_caching=False) as model:
        with pytest.raises(InvalidConfigError, match="prefix_caching is off"):
            model.load_cache(saved)
        with pytest.raises(InvalidConfigError, match="prefix_caching is off"):
            model.save_cache(PROMPT, tmp_path / "a")


def test_files_that_cannot_be(tiny, tmp_path):
    with pytest.raises(ModelLoadError, match="cannot read"):
        tiny.load_cache(tmp_path / "missing")
    with pytest.raises(DenseCoreError, match="cannot write"):
        tiny.save_cache(PROMPT, tmp_path / "no" / "folder")


def with_header(data: bytes, **changes) -> bytes:
    (length,) = struct.unpack("<I", data[8:12])
    header = json.dumps(json.loads(data[12 : 12 + length]) | changes).encode()
    return data[:8] + struct.pack("<I", len(header)) + header + data[12 + length :]


DAMAGES = {
    "empty": lambda data: b"",
    "short": lambda data: data[:10],
    "magic": lambda data: b"x" + data[1:],
    "header length": lambda data: data[:8] + b"\xff" * 4 + data[12:],
    "header": lambda data: data[:12] + b"[" * 4000 + data[4012:],
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
    "token": lambda data: data[:400] + bytes([data[400] ^ 1]) + data[401:],
    "checksum": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "many tokens": lambda data: with_header(data, num_tokens=2**60),
    "more tokens": lambda data: with_header(data, num_tokens=200),
    "no number": lambda data: with_header(data, num_tokens=True),
    "version": lambda data: with_header(data, densecore="0.0.0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(tiny, saved, tmp_path, damage):
    path = tmp_path / "damaged"
    path.write_bytes(DAMAGES[damage](saved.read_bytes()))
    with pytest.raises(ModelLoadError, match=str(path)):
        tiny.load_cache(path)
    assert tiny.get_metrics()["kv_cache_blocks_used"] == 0
