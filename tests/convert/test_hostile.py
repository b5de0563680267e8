"""Broken and hostile checkpoints: one line that says what is wrong, and nothing is left behind."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from densecore.convert import convert_checkpoint
from densecore.exceptions import DenseCoreError, InvalidConfigError, ModelLoadError
from tests.convert.tiny import byte_level_bpe, recorded, safetensors_bytes, write_checkpoint


@pytest.fixture
def source(tmp_path):
    config, tensors = recorded("llama")
    return write_checkpoint(tmp_path / "source", config, tensors)


def refused(source, match, error=ModelLoadError, **arguments):
    """Converting fails with one line, and the target's folder stays as it was."""
    out = source.parent / "out"
    out.mkdir(exist_ok=True)
    before = sorted(os.listdir(out))
    with pytest.raises(error, match=match) as caught:
        convert_checkpoint(source, out / "model.gguf", **arguments)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(out)) == before


def change_config(source, **changes):
    path = source / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value != "DROP"}))


def rewrite_header(source, change):
    path = source / "model.safetensors"
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


NORM = "model.norm.weight"


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 5000, 100_000, -4])
def test_truncated(source, keep):
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(source, "truncated|empty|is 0|JSON")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h: h[NORM].update(dtype="F8_E4M3"), "dtype is 'F8_E4M3'; allowed: F64, F32"),
        (lambda h: h[NORM].update(dtype=["F32"]), "dtype is"),
        (lambda h: h[NORM].update(dtype="I32"), "is I32; allowed: F32, F16, BF16, F64; dequantize"),
        (lambda h: h[NORM].update(shape=[63]), "has 256 bytes; allowed: 252"),
        (lambda h: h[NORM].update(shape=[-64]), "non-negative integers"),
        (lambda h: h[NORM].update(shape=[1 << 70, 1 << 70]), "bytes; allowed"),
        (lambda h: h[NORM].update(shape=[1] * 9), "at most 8 dimensions"),
        (lambda h: h[NORM].update(shape="64"), "non-negative integers"),
        (lambda h: h[NORM].update(data_offsets=[0, 1 << 60]), "truncated or broken"),
        (lambda h: h[NORM].update(data_offsets=[256, 0]), "truncated or broken"),
        (lambda h: h[NORM].update(data_offsets=[0, 256]), "overlaps tensor"),
        (lambda h: h[NORM].update(data_offsets=[0]), "an object with dtype, shape and data_offsets"),
        (lambda h: h.update({NORM: 5}), "an object with dtype, shape and data_offsets"),
        (lambda h: h.pop(NORM), "tensor norm.weight is missing; allowed: a tensor of shape"),
        (lambda h: h.update({"model.other.weight": h.pop(NORM)}), "is missing"),
        (lambda h: h.update({"extra.weight": h[NORM] | {"shape": [0], "data_offsets": [0, 0]}}), "not part of llama"),
        (lambda h: h.update({"norm.weight": h[NORM] | {"shape": [0], "data_offsets": [0, 0]}}), "is there twice"),
        (lambda h: h.update({"a\nb": h[NORM] | {"shape": [0], "data_offsets": [0, 0]}}), "not part of llama"),
    ],
)
def test_header(source, change, match):
    rewrite_header(source, change)
    refused(source, match)


def test_wrong_shape(source):
    change_config(source, intermediate_size=95)
    refused(source, r"has shape \[96, 64\]; allowed: \[95, 64\], by config.json")


DEEP, LONG = b"[" * 100_000, b'{"hidden_size": ' + b"9" * 5000 + b"}"


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff\xfe", b'{"a": 1, "a": 2}', DEEP, LONG])
def test_json(source, text):
    (source / "config.json").write_bytes(text)
    refused(source, "config.json: (file|architectures|model_type)")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hidden_size": "DROP"}, "hidden_size is missing; allowed: an integer"),
        ({"hidden_size": "64"}, "hidden_size is '64'; allowed: an integer"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": 1 << 40}, "allowed: an integer from 1 to"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; allowed: an integer from 1 to 4096"),
        ({"num_hidden_layers": 3}, r"tensor layers.2.\S+ is missing"),
        ({"num_hidden_layers": 1}, "tensors that are not part of llama"),
        ({"num_key_value_heads": 3}, "a divisor of num_attention_heads = 4"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps is 'x'; allowed: a finite number"),
        ({"rope_parameters": {"rope_type": "magic"}}, "rope_parameters.rope_type is 'magic'; allowed: default, linear"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_parameters": 5}, "rope_parameters is 5; allowed: an object"),
        ({"vocab_size": 100}, r"lm_head.weight' has shape \[288, 64\]; allowed: \[100, 64\]"),
        ({"architectures": ["NewForCausalLM"]}, "architectures is 'NewForCausalLM', which is not supported"),
        ({"architectures": [], "model_type": "DROP"}, "model_type is missing"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1; allowed: true or false"),
    ],
)  # fmt: skip
def test_config(source, changes, match):
    change_config(source, **changes)
    refused(source, match)


def sharded(tmp_path):
    config, tensors = recorded("llama")
    return write_checkpoint(tmp_path / "sharded", config, tensors, n_shards=3)


def test_missing_shard(tmp_path):
    source = sharded(tmp_path)
    (source / "model-00002-of-00003.safetensors").unlink()
    refused(source, "model-00002-of-00003.safetensors: shard is missing")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/../b", "..", "", "x\0y", "C:\\x"])
def test_index_outside_of_the_folder(tmp_path, name):
    source = sharded(tmp_path)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refused(source, "weight_map names the file .*; allowed: files in the same folder")


@pytest.mark.parametrize("value", [None, 5, [], {"a": 5}])
def test_broken_index(tmp_path, value):
    source = sharded(tmp_path)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": value}))
    refused(source, "an object from tensor to file name")


def test_index_promises_too_much(tmp_path):
    source = sharded(tmp_path)
    path = source / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["b"] = "model-00001-of-00003.safetensors"
    path.write_text(json.dumps(index))
    refused(source, "promises 1 tensors that no file holds, such as 'b'")


def test_no_checkpoint(tmp_path, source):
    refused(tmp_path / "nowhere", "does not exist; allowed: a folder")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    refused(source, "no weights; there is 'pytorch_model.bin', a format that is not read")
    (source / "config.json").unlink()
    refused(source, "config.json: cannot read the file: No such file")


def test_a_pipe_is_not_waited_for(source):
    (source / "config.json").unlink()
    os.mkfifo(source / "config.json")
    refused(source, "config.json: path is not a regular file")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop("model"), "model is None; allowed: an object"),
        (lambda t: t["model"].update(type="Magic"), "model.type is 'Magic'; allowed: BPE"),
        (lambda t: t["model"].update(vocab=[]), "model.vocab is"),
        (lambda t: t["model"]["vocab"].update(x=0), "each id once"),
        (lambda t: t["model"]["vocab"].update(x=-1), "ids -1 to"),
        (lambda t: t["model"].update(merges=[["a"]]), "tokenizer"),
        (lambda t: t.update(added_tokens=[5]), "added_tokens is broken"),
        (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), "tokenizer"),
    ],
)
def test_tokenizer(source, change, match):
    description = byte_level_bpe()
    change(description)
    (source / "tokenizer.json").write_text(json.dumps(description))
    refused(source, match)


def test_unknown_cuts(source):
    """A rule that nobody knows is named; it can be chosen by hand."""
    description = byte_level_bpe()
    split = {"type": "Split", "pattern": {"Regex": "[aeiou]+"}, "behavior": "Isolated", "invert": False}
    byte_level = description["pre_tokenizer"] | {"use_regex": False}
    description["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    (source / "tokenizer.json").write_text(json.dumps(description))
    refused(source, r"pre_tokenizer is not known: .*aeiou.*--pre")
    refused(source, "pre is 'magic'; allowed: a.x-4.0", InvalidConfigError, pre="magic")
    with pytest.warns(RuntimeWarning, match="gives other token ids"):
        assert convert_checkpoint(source, source.parent / "model.gguf", pre="gpt-2").exists()


def test_no_tokenizer(source):
    (source / "tokenizer.json").unlink()
    refused(source, "tokenizer is missing; allowed: tokenizer.json or tokenizer.model")


def test_arguments(source):
    refused(source, "outtype is 'q4_0'; allowed: f32, f16, bf16, q8_0", InvalidConfigError, outtype="q4_0")
    with pytest.raises(DenseCoreError, match="the folder does not exist"):
        convert_checkpoint(source, source / "nowhere" / "model.gguf")


def test_failure_while_writing(source, monkeypatch):
    """What goes wrong half-way leaves the old file, and no other."""
    out = source.parent / "out"
    out.mkdir()
    (out / "model.gguf").write_bytes(b"old")
    _, tensors = recorded("llama")
    tensors["lm_head.weight"] = np.full_like(tensors["lm_head.weight"], 1e9)
    (source / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    refused(source, "tensor output.weight holds 1e[+]09, and F16 ends at 65504")
    assert (out / "model.gguf").read_bytes() == b"old"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(source, "cannot write the file: No space left on device", DenseCoreError, outtype="f32")
    assert (out / "model.gguf").read_bytes() == b"old"
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 5}))
    refused(source, "GiB are needed", DenseCoreError, outtype="f32")
