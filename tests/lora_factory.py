"""LoRA adapters as GGUF files, and models into which they are merged: both written by the ``gguf`` package."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

__all__ = ["make_adapter", "matrix_shapes", "merge"]

TYPES = gguf.GGMLQuantizationType


def matrix_shapes(model: str | os.PathLike[str]) -> dict[str, tuple[int, int]]:
    """(n_out, n_in) of each matrix of a model file, by name without ``.weight``."""
    tensors = gguf.GGUFReader(model).tensors
    return {t.name.removesuffix(".weight"): tuple(int(n) for n in t.shape[::-1]) for t in tensors if len(t.shape) == 2}


def random_pair(
    rng: np.random.Generator, name: str, shape: tuple[int, int], rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """A and B with a product about as large as the matrix; those of embeddings are the other way round."""
    n_out, n_in = shape
    if name == "token_embd":
        a, b = rng.normal(0, 1, (n_out, rank)), rng.normal(0, rank**-0.5, (n_in, rank))
    else:
        a, b = rng.normal(0, n_in**-0.5, (rank, n_in)), rng.normal(0, rank**-0.5, (n_out, rank))
    return a.astype(np.float32), b.astype(np.float32)


def make_adapter(
    path: str | os.PathLike[str],
    model: str | os.PathLike[str],
    names: Collection[str] | None = None,
    *,
    rank: int = 4,
    alpha: float | None = 8.0,
    tensor_type: str = "F32",
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    overrides: Mapping[str, np.ndarray] | None = None,
    drop: Collection[str] = (),
) -> Path:
    """Write a random adapter for `model` that changes the matrices `names`, by default all of them.

    metadata : strings and numbers that replace or add keys, and None, which leaves one out
    overrides, drop : tensors by name that are replaced or added, and that are left out
    """
    shapes, rng = matrix_shapes(model), np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for name in shapes if names is None else names:
        a, b = random_pair(rng, name, shapes.get(name, shapes["token_embd"]), rank)
        tensors |= {f"{name}.weight.lora_a": a, f"{name}.weight.lora_b": b}
    tensors |= dict(overrides or {})
    arch = str(gguf.GGUFReader(model).fields["general.architecture"].contents())
    keys = {
        "general.architecture": arch,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
    }
    keys |= dict(metadata or {})
    writer = gguf.GGUFWriter(path, str(keys.pop("general.architecture")))
    for key, value in keys.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_float32(key, value)
    for name, values in tensors.items():
        if name not in drop:
            _add_tensor(writer, name, values, TYPES[tensor_type])
    _finish(writer)
    return Path(path)


def merge(
    path: str | os.PathLike[str], model: str | os.PathLike[str], adapters: Mapping[str | os.PathLike[str], float]
) -> Path:
    """Write `model` in float32 with adapters merged into its matrices, by the formula: W + scale * alpha / rank * B A.

    adapters : files, and a scale for each
    """
    reader = gguf.GGUFReader(model)
    weights = {t.name: _values(t) for t in reader.tensors}
    weights.setdefault("output.weight", weights["token_embd.weight"])  # where the two are one, they part
    for adapter, scale in adapters.items():
        content = gguf.GGUFReader(adapter)
        alpha = float(content.fields["adapter.lora.alpha"].contents())
        parts = {t.name: _values(t).astype(np.float64) for t in content.tensors}
        for name in [name.removesuffix(".lora_a") for name in parts if name.endswith(".lora_a")]:
            a, b = parts[f"{name}.lora_a"], parts[f"{name}.lora_b"]
            product = a @ b.T if name.startswith("token_embd") else b @ a
            weights[name] = (weights[name] + scale * alpha / b.shape[1] * product).astype(np.float32)
    writer = gguf.GGUFWriter(path, str(reader.fields["general.architecture"].contents()))
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], element)
    for name, values in weights.items():
        writer.add_tensor(name, values.astype(np.float32))
    _finish(writer)
    return Path(path)


def _values(tensor: Any) -> np.ndarray:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return values.reshape(tuple(int(n) for n in tensor.shape[::-1])).astype(np.float32)


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: TYPES) -> None:
    if values.dtype.kind == "i":
        writer.add_tensor(name, values)
    elif kind == TYPES.F32 or values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        writer.add_tensor(name, values.astype(np.float32))
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
