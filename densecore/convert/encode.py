"""Numbers in the types that a converted file may have: F32, F16, BF16 and Q8_0."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from densecore.convert.lazy import LazyTensor, to_float32
from densecore.exceptions import ModelLoadError
from densecore.gguf import GGMLType

__all__ = ["FILE_TYPES", "OUT_TYPES", "encoded", "type_of"]

OUT_TYPES = {"f32": GGMLType.F32, "f16": GGMLType.F16, "bf16": GGMLType.BF16, "q8_0": GGMLType.Q8_0}
# general.file_type of each, as llama.cpp numbers them (llama_ftype).
FILE_TYPES = {GGMLType.F32: 0, GGMLType.F16: 1, GGMLType.Q8_0: 7, GGMLType.BF16: 32}
# Matrices that are F32 in every file: routers of experts, and what is added to embeddings.
_ALWAYS_F32 = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "position_embd.weight", "token_types.weight")
_SAME = {GGMLType.F32: "F32", GGMLType.F16: "F16", GGMLType.BF16: "BF16"}


def type_of(name: str, shape: tuple[int, ...], wanted: GGMLType) -> GGMLType:
    """The type of tensor `name` of shape (..., n_in) in a file of type `wanted`: the rules of llama.cpp's converter.

    Vectors, norms, biases and a few small matrices are F32; rows that Q8_0's blocks do not fill are F16.
    """
    if len(shape) == 1 or not name.endswith(".weight") or name.endswith(("_norm.weight", *_ALWAYS_F32)):
        return GGMLType.F32
    if shape[-1] % wanted.block_size:
        return GGMLType.F16
    return wanted


def encoded(name: str, tensor: LazyTensor, kind: GGMLType) -> Iterator[np.ndarray]:
    """The bytes of `tensor` as type `kind`, a few rows at a time: contiguous arrays.

    Raises ModelLoadError if float16 cannot hold a number.
    """
    for chunk in tensor.chunks():
        if tensor.kind is not None or (tensor.dtype == _SAME.get(kind) and not tensor.shift):
            yield np.ascontiguousarray(chunk)
            continue
        values = to_float32(chunk, tensor.dtype)
        if tensor.shift:
            values += np.float32(tensor.shift)
        yield _encode(name, values, kind)


def _encode(name: str, values: np.ndarray, kind: GGMLType) -> np.ndarray:
    if kind is GGMLType.F32:
        return values
    if kind is GGMLType.F16:
        return _to_float16(name, values)
    from gguf import GGMLQuantizationType, quants  # takes a third of a second

    return np.ascontiguousarray(quants.quantize(values, GGMLQuantizationType(kind)))


def _to_float16(name: str, values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    lost = np.isinf(halves) & np.isfinite(values)
    if lost.any():
        worst = float(np.abs(values[lost]).max())
        raise ModelLoadError(f"tensor {name} holds {worst:g}, and F16 ends at 65504; use --outtype bf16 or f32")
    return halves
