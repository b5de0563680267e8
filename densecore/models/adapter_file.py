"""LoRA adapters from GGUF files, as llama.cpp's ``convert_lora_to_gguf.py`` writes them, checked against their model.

Metadata: ``general.type`` is ``adapter``, ``adapter.type`` is ``lora``, ``general.architecture`` is that of the model,
and ``adapter.lora.alpha`` is divided by the rank and multiplied in; 0, or none, leaves that out. Tensors come in pairs,
named after the matrix (n_out, n_in) that they change: ``blk.0.attn_q.weight.lora_a`` (rank, n_in) and ``.lora_b``
(n_out, rank); for ``token_embd`` (n_vocab, rank) and (dim, rank). A file with anything else in it is refused, because
leaving it out would silently compute something else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from densecore.exceptions import InvalidConfigError, ModelLoadError
from densecore.gguf import GGUFFile, TensorInfo
from densecore.kernels.activation import take_rows
from densecore.kernels.formats import FORMATS
from densecore.kernels.lora import expand, pick, shrink
from densecore.kernels.plan import Operation, Plan
from densecore.models.adapters import Adapter, AdapterSet, Pair, digest_of
from densecore.models.base import Model
from densecore.models.batch import Batch, KVCache
from densecore.models.step import Step, Workspace
from densecore.models.weights import Linear

__all__ = ["load_adapter"]

MAX_RANK = 4096
A, B = ".weight.lora_a", ".weight.lora_b"
TOKEN_EMBD = "token_embd"


def load_adapter(path: str | os.PathLike[str], model: Model, max_bytes: int | None = None) -> Adapter:
    """The adapter in a file, in memory, of which it may take `max_bytes`; compiles what it needs.

    Raises
    ------
    ModelLoadError
        It is for another model, incomplete, broken, or of a kind that is not supported.
    InvalidConfigError
        It takes more memory.
    """
    with GGUFFile.open(Path(path).expanduser()) as file:
        alpha = _check_metadata(file, model)
        names = _changed_matrices(file, model)
        needed = sum(4 * tensor.n_elements for tensor in file.tensors.values())
        if max_bytes is not None and needed > max_bytes:
            raise InvalidConfigError(
                f"{file.path}: the adapter takes {needed / 2**20:.1f} MiB, and {max_bytes / 2**20:.1f} MiB of memory "
                "are available: unload others, or leave less to the KV cache (kv_cache_bytes)"
            )
        pairs: dict[str, Pair] = {}
        for name in names:
            pairs |= _load_pairs(file, model, name, alpha)
    adapter = Adapter(file.path, alpha, pairs, digest_of(pairs))
    _try(adapter, model)
    return adapter


def _check_metadata(file: GGUFFile, model: Model) -> float:
    """Alpha, once the file is known to be a LoRA adapter of this architecture."""
    metadata = file.metadata
    kind = metadata.string("general.type", "model")
    if kind != "adapter":
        raise metadata.error(
            "general.type", f"is {kind!r}", "'adapter'; the path of a whole model goes to DenseCore(...)"
        )
    kind = metadata.string("adapter.type")
    if kind != "lora":
        raise metadata.error("adapter.type", f"is {kind!r}", "'lora'")
    arch, wanted = metadata.string("general.architecture"), model.config.architecture
    if arch != wanted:
        raise metadata.error(
            "general.architecture",
            f"is {arch!r}",
            f"{wanted!r}, that of {model.path}: take an adapter that was trained for this model",
        )
    if "adapter.alora.invocation_tokens" in metadata:
        raise metadata.error(
            "adapter.alora.invocation_tokens", "makes this an activated LoRA", "plain LoRA, active from the first token"
        )
    return metadata.number("adapter.lora.alpha", 0.0)


def _changed_matrices(file: GGUFFile, model: Model) -> list[str]:
    """Names of the matrices that the file changes; each is one of the model, and both tensors are there."""
    names: dict[str, None] = {}
    for tensor in file.tensors:
        name = tensor.removesuffix(A).removesuffix(B)
        if name == tensor:
            raise ModelLoadError(
                f"{file.path}: tensor {tensor!r} is no part of a LoRA pair, whose names end with {A} and {B}: "
                "only changes of matrices are supported; merge the adapter into the model, and convert that"
            )
        if name in model.grouped:
            raise ModelLoadError(
                f"{file.path}: tensor {tensor!r} changes {name}.weight, which holds a matrix for each expert or head: "
                "adapters cannot change such tensors; merge the adapter into the model, and convert that"
            )
        if name not in model.linears:
            raise ModelLoadError(
                f"{file.path}: tensor {tensor!r} changes {name}.weight, which {model.path} does not have as a matrix "
                f"that adapters can change: take an adapter that was trained for this model"
            )
        names[name] = None
    for name in names:
        for suffix in (A, B):
            if name + suffix not in file.tensors:
                raise ModelLoadError(
                    f"{file.path}: tensor {name + suffix} is missing, half of a pair: convert the adapter again"
                )
    if not names:
        raise ModelLoadError(f"{file.path}: the adapter has no tensors: convert it again")
    return list(names)


def _load_pairs(file: GGUFFile, model: Model, name: str, alpha: float) -> dict[str, Pair]:
    """The pair of a matrix; of one in which several lie one below the other, a pair for each, with the same A."""
    whole, first, pairs = _load_pair(file, model.linears[name], alpha), 0, {}
    for part in model.fused.get(name, ()):
        b = np.ascontiguousarray(whole.b[:, first : first + part.n_out])
        pairs[part.name] = Pair(whole.a, b, whole.multiplier)
        first += part.n_out
    return pairs or {name: whole}


def _load_pair(file: GGUFFile, weight: Linear, alpha: float) -> Pair:
    info_a, info_b = file.tensors[weight.name + A], file.tensors[weight.name + B]
    rank = _matrix_shape(file, info_b)[1]
    if not 1 <= rank <= MAX_RANK:
        raise ModelLoadError(f"{file.path}: tensor {info_b.name} has rank {rank}; allowed: 1 to {MAX_RANK}")
    if weight.name == TOKEN_EMBD:
        shape_a, shape_b = (weight.n_out, rank), (weight.n_in, rank)
    else:
        shape_a, shape_b = (rank, weight.n_in), (weight.n_out, rank)
    a, b = _load_matrix(file, info_a, shape_a), _load_matrix(file, info_b, shape_b)
    return Pair(a, np.ascontiguousarray(b.T), alpha / rank if alpha else 1.0)


def _matrix_shape(file: GGUFFile, info: TensorInfo) -> tuple[int, int]:
    """(rows, columns); axes of length 1 at the end may be left out in a file."""
    columns, rows = (*info.shape, 1)[:2]
    if rows * columns != info.n_elements:
        raise ModelLoadError(f"{file.path}: tensor {info.name} has shape {info.shape}; expected a matrix")
    return rows, columns


def _load_matrix(file: GGUFFile, info: TensorInfo, shape: tuple[int, int]) -> np.ndarray:
    """A tensor as float32 of this shape."""
    found = _matrix_shape(file, info)
    if found != shape:
        raise ModelLoadError(
            f"{file.path}: tensor {info.name} has shape {found}; to fit the model and its other half it must be "
            f"{shape}: take an adapter that was trained for this model"
        )
    fmt = FORMATS.get(info.type.name)
    if fmt is None:
        raise ModelLoadError(
            f"{file.path}: tensor {info.name} is of type {info.type.name}, which cannot be read; "
            f"supported are {', '.join(sorted(FORMATS))}"
        )
    blocks = file.tensor_data(info.name).reshape(-1, fmt.type_size)
    with np.errstate(all="ignore"):  # scales that are no numbers, which is told below
        values = np.ascontiguousarray(fmt.dequantize_ref(blocks), np.float32).reshape(shape)
    if not np.isfinite(values).all():
        raise ModelLoadError(f"{file.path}: tensor {info.name} holds NaN or infinity: the file is damaged")
    return values


class _OfAdapters(Plan):
    """A plan that takes no operations but those that adapters add to a step."""

    def add(self, op: Operation, *arguments: Any, **options: bool) -> None:
        if op in (shrink, pick, expand, take_rows):
            super().add(op, *arguments, **options)


def _try(adapter: Adapter, model: Model) -> None:
    """Record a step, without running it, to compile what is new in it, and to see that no change is left out."""
    token = Batch.contiguous(np.zeros(1, np.int32), 0, 1, 1)
    adapters = AdapterSet([adapter])
    batch = token.with_adapters(np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32))
    step = Step(batch, KVCache(model.config, 1, 1, "f32"), Workspace(), plan=_OfAdapters(), adapters=adapters)
    model.compute(step)
    left_out = adapter.pairs.keys() - step.adapted
    if left_out:
        raise ModelLoadError(
            f"{adapter.path}: adapters cannot change {', '.join(sorted(left_out)[:4])} of architecture "
            f"{model.config.architecture!r} yet: merge the adapter into the model, and convert that"
        )
