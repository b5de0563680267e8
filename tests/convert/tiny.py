"""Tiny checkpoints in Hugging Face's layout, made on the spot: the same numbers wherever they are made."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
N_VOCAB = 288  # 256 bytes, a few merges, special tokens


def weights(shapes: Mapping[str, list[int]]) -> dict[str, np.ndarray]:
    """Random float32 tensors that depend on their name and shape alone; those of norms are near 1."""
    found = {}
    for name, shape in shapes.items():
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        values = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.08 if len(shape) > 1 else 0.1)
        is_norm = name.endswith("weight") and len(shape) == 1
        found[name] = values + np.float32(is_norm)
    return found


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers, cut off."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def safetensors_bytes(tensors: Mapping[str, np.ndarray], dtype: str | None = None) -> bytes:
    """A safetensors file; uint16 arrays are BF16, others what numpy says."""
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16", "uint8": "U8", "int64": "I64", "float64": "F64"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data, offset = [], 0
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values).tobytes()
        end = offset + len(raw)
        header[name] = {
            "dtype": dtype or names[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [offset, end],
        }
        data.append(raw)
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(data)


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    tokenizer: Mapping[str, Any] | None = None,
    n_shards: int = 1,
) -> Path:
    """Write config.json, tokenizer.json and the weights, in `n_shards` files; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(byte_level_bpe() if tokenizer is None else tokenizer))
    if n_shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
        return folder
    names, weight_map = list(tensors), {}
    for shard in range(n_shards):
        file = f"model-{shard + 1:05d}-of-{n_shards:05d}.safetensors"
        part = names[shard::n_shards]
        (folder / file).write_bytes(safetensors_bytes({name: tensors[name] for name in part}))
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def byte_level_bpe() -> dict[str, Any]:
    """A tokenizer.json as GPT-2's, of N_VOCAB tokens at most."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    merges = [["Ġ", "t"], ["h", "e"], ["Ġ", "a"], ["i", "n"], ["r", "e"], ["Ġt", "he"], ["o", "n"]]
    vocab = {text: i for i, text in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = {"id": len(vocab), "content": "<|endoftext|>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "added_tokens": [added | flags],
        "normalizer": None,
        "pre_tokenizer": step,
        "post_processor": None,
        "decoder": step,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def recorded(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and weights of a checkpoint that record_checkpoints.py ran through transformers."""
    entry = json.loads((HERE / "checkpoints.json").read_text())[name]
    return entry["config"], weights(entry["tensors"])


def recorded_names() -> list[str]:
    """All checkpoints in the recording."""
    return sorted(json.loads((HERE / "checkpoints.json").read_text()))


def expected(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (n,), and what transformers computed for them: some columns of the logits, (n, n_vocab / 6)."""
    values = np.load(HERE / "checkpoints.npz")
    return values["ids"], values[name]


COLUMNS = slice(None, None, 6)  # of the logits that are recorded
