"""Writes GGUF files, whole or in parts: for tests, and for tools that make one model from another."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densecore.exceptions import DenseCoreError, InvalidConfigError
from densecore.gguf.encode import encode_string, encode_value
from densecore.gguf.errors import describe, printable
from densecore.gguf.head import ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_KEY_BYTES, VERSIONS
from densecore.gguf.splits import COUNT_KEY, NO_KEY, TENSORS_KEY, split_paths
from densecore.gguf.temporary import claim, remove_abandoned, temporary_path
from densecore.gguf.tensors import MAX_DIMS, MAX_NAME_BYTES
from densecore.gguf.types import GGMLType, ValueType

__all__ = ["GGUFWriter"]

_TYPE_OF_DTYPE = {
    "float32": GGMLType.F32,
    "float16": GGMLType.F16,
    "float64": GGMLType.F64,
    "int8": GGMLType.I8,
    "int16": GGMLType.I16,
    "int32": GGMLType.I32,
    "int64": GGMLType.I64,
}


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]  # (ne0, ne1, ...)
    type: GGMLType
    pieces: Callable[[], Iterable[np.ndarray]]  # its bytes in order, made when they are written

    @property
    def n_bytes(self) -> int:
        return self.type.n_bytes(math.prod(self.shape))


class GGUFWriter:
    """Collects metadata and tensors, then writes them in one go.

    ::

        writer = GGUFWriter("model.gguf")
        writer.add_metadata("general.architecture", "llama")
        writer.add_tensor("output_norm.weight", np.ones(64, np.float32))
        writer.write()

    Tensors are kept by reference, so that a memory map of another model can be written without reading it
    into memory; `add_stream` takes what makes a tensor while it is written. Arguments that GGUF cannot
    hold are an InvalidConfigError, at once.
    """

    def __init__(self, path: str | os.PathLike[str], *, version: int = 3, alignment: int = DEFAULT_ALIGNMENT) -> None:
        if version not in VERSIONS:
            raise InvalidConfigError(f"version is {version!r}; allowed: {' or '.join(map(str, VERSIONS))}")
        if alignment < 8 or alignment & (alignment - 1):
            raise InvalidConfigError(f"alignment is {alignment}; allowed: a power of two, at least 8")
        self.path = Path(path)
        self.version = version
        self.alignment = alignment
        self._pairs: dict[str, bytes] = {}  # key -> type and value as in the file
        self._tensors: dict[str, _Tensor] = {}
        if alignment != DEFAULT_ALIGNMENT:
            self._pairs[ALIGNMENT_KEY] = encode_value(alignment, ValueType.UINT32)

    def add_metadata(self, key: str, value: Any, type: ValueType | None = None) -> None:
        """Adds one pair; a key that is there already is replaced.

        `value` is an int, float, bool or str, or a sequence or numpy array of them. `type` is the type of
        the value, or of the elements of an array; left out, it is BOOL, STRING, FLOAT32 for floats, UINT32
        (INT32 in sequences) for ints or what they need, and what their dtype says for numpy arrays and scalars.
        """
        if not 1 <= len(key.encode()) <= MAX_KEY_BYTES or key in (
            NO_KEY,
            COUNT_KEY,
            TENSORS_KEY,
            ALIGNMENT_KEY,
        ):
            allowed = f"1 to {MAX_KEY_BYTES} bytes, none of the keys that the writer sets itself"
            raise InvalidConfigError(f"metadata key is {describe(key)}; allowed: {allowed}")
        self._pairs[key] = encode_value(value, type)

    def add_tensor(
        self,
        name: str,
        data: np.ndarray | bytes,
        type: GGMLType | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        """Adds one tensor; names are unique.

        `data` is either an array of numbers, shape (..., ne1, ne0) as numpy counts, whose dtype tells the
        type; or bytes (uint8), which need `type`, and `shape` as in the file, (ne0, ne1, ...). A uint8
        array of rows, shape (..., ne1, bytes of a row), tells its shape by itself.
        """
        array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.asarray(data)
        kind = _tensor_type(name, array, type)
        dims = tuple(shape) if shape is not None else _shape_of(array, kind)
        self._check(name, kind, dims)
        if array.nbytes != kind.n_bytes(math.prod(dims)):
            allowed = f"{kind.n_bytes(math.prod(dims))} for {kind.name} of shape {dims}"
            raise InvalidConfigError(f"tensor {name!r} has {array.nbytes} bytes; allowed: {allowed}")
        contiguous = np.ascontiguousarray(array)
        self._tensors[name] = _Tensor(name, dims, kind, lambda: [contiguous])

    def add_stream(
        self, name: str, type: GGMLType, shape: Sequence[int], pieces: Callable[[], Iterable[np.ndarray]]
    ) -> None:
        """Adds a tensor that is made while it is written, so that it need not fit into memory.

        `shape` is as in the file, (ne0, ne1, ...). `pieces` is called by `write`, and returns contiguous arrays that
        together are the tensor's bytes; what it raises ends the writing, and nothing is left behind.
        """
        dims = tuple(shape)
        self._check(name, type, dims)
        self._tensors[name] = _Tensor(name, dims, type, pieces)

    def _check(self, name: str, kind: GGMLType, dims: tuple[int, ...]) -> None:
        """InvalidConfigError if GGUF cannot hold such a tensor, or holds one of this name already."""
        if name in self._tensors or not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
            allowed = f"1 to {MAX_NAME_BYTES} bytes, each name once"
            raise InvalidConfigError(f"tensor name is {describe(name)}; allowed: {allowed}")
        if not 1 <= len(dims) <= MAX_DIMS or min(dims) < 1 or dims[0] % kind.block_size:
            allowed = f"1 to {MAX_DIMS} dimensions above 0, the first a multiple of {kind.block_size}"
            raise InvalidConfigError(f"tensor {name!r} has the shape {dims}; allowed: {allowed}")

    @property
    def n_data(self) -> int:
        """Bytes of all tensors, with the padding between them."""
        return sum(_padded(tensor.n_bytes, self.alignment) for tensor in self._tensors.values())

    def write(self, n_parts: int = 1, progress: Callable[[int, int], None] | None = None) -> list[Path]:
        """Writes `path`, or `n_parts` files beside it named as splits of it; returns what was written.

        `progress` is called along the way, with the bytes of tensors that are written and those of all.

        Each file is written under a temporary name beside its target and flushed to the disk; when all are,
        they are renamed over their targets, the first part last. What processes that were killed have left under such
        names is removed. DenseCoreError if a file cannot be written.
        """
        if not 1 <= n_parts <= 99999:
            raise InvalidConfigError(f"n_parts is {n_parts}; allowed: 1 to 99999")
        if n_parts == 1:
            targets = [self.path]
            parts = [self._encode_part(self._pairs, list(self._tensors.values()))]
        else:
            targets = split_paths(self.path, n_parts)
            parts = list(self._encode_parts(n_parts))
        report = _Report(progress, sum(tensor.n_bytes for tensor in self._tensors.values()))
        for path in targets:
            remove_abandoned(path)
        temporary = [temporary_path(path) for path in targets]
        try:
            for path, (head, tensors) in zip(temporary, parts, strict=True):
                _write_part(path, head, tensors, self.alignment, report)
            for path, target in reversed(list(zip(temporary, targets, strict=True))):
                os.replace(path, target)
        except OSError as error:
            reason = error.strerror or str(error)
            raise DenseCoreError(f"{printable(self.path)}: cannot write the file: {reason}") from error
        finally:
            for path in temporary:
                with suppress(OSError):
                    path.unlink()
        return targets

    def _encode_parts(self, n_parts: int) -> Iterator[tuple[bytes, list[_Tensor]]]:
        """Splits the tensors into runs of equal number; the metadata goes into the first part."""
        tensors = list(self._tensors.values())
        for index in range(n_parts):
            first, end = (len(tensors) * n // n_parts for n in (index, index + 1))
            alignment = {key: raw for key, raw in self._pairs.items() if key == ALIGNMENT_KEY}
            pairs = dict(self._pairs) if index == 0 else alignment
            pairs[NO_KEY] = encode_value(index, ValueType.UINT16 if n_parts < 65536 else ValueType.UINT32)
            pairs[COUNT_KEY] = encode_value(n_parts, ValueType.UINT16 if n_parts < 65536 else ValueType.UINT32)
            pairs[TENSORS_KEY] = encode_value(len(tensors), ValueType.INT32)
            yield self._encode_part(pairs, tensors[first:end])

    def _encode_part(self, pairs: dict[str, bytes], tensors: list[_Tensor]) -> tuple[bytes, list[_Tensor]]:
        """Header, pairs and tensor table, without the padding that follows."""
        head = [MAGIC, struct.pack("<IQQ", self.version, len(tensors), len(pairs))]
        for key, raw in pairs.items():
            head += (encode_string(key), raw)
        offset = 0
        for tensor in tensors:
            dims = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            head += (encode_string(tensor.name), dims, struct.pack("<IQ", tensor.type, offset))
            offset += _padded(tensor.n_bytes, self.alignment)
        return b"".join(head), tensors


def _tensor_type(name: str, array: np.ndarray, wanted: GGMLType | None) -> GGMLType:
    own = _TYPE_OF_DTYPE.get(array.dtype.name)
    if array.dtype == np.uint8 and wanted is not None:
        return GGMLType(wanted)
    if own is None or wanted not in (None, own):
        allowed = f"{', '.join(_TYPE_OF_DTYPE)} as themselves, uint8 with a type"
        given = "without a type" if wanted is None else f"as {GGMLType(wanted).name}"
        raise InvalidConfigError(f"tensor {name!r} is {array.dtype} {given}; allowed: {allowed}")
    return own


def _shape_of(array: np.ndarray, kind: GGMLType) -> tuple[int, ...]:
    """(ne0, ne1, ...) of numbers of shape (..., ne1, ne0), or of uint8 rows of shape (..., ne1, row bytes)."""
    dims = array.shape[::-1]
    if array.dtype != np.uint8 or not dims:
        return dims
    return (dims[0] // kind.type_size * kind.block_size, *dims[1:])


def _padded(n_bytes: int, alignment: int) -> int:
    return -(-n_bytes // alignment) * alignment


class _Report:
    """Adds up what was written, and tells."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, n_bytes: int) -> None:
        self._done += n_bytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def _write_part(path: Path, head: bytes, tensors: list[_Tensor], alignment: int, report: _Report) -> None:
    with open(path, "xb") as file:
        claim(file)
        file.write(head)
        file.write(bytes(-len(head) % alignment))
        for tensor in tensors:
            written = 0
            for piece in tensor.pieces():
                written += file.write(piece.reshape(-1).view(np.uint8).data)
                report.add(piece.nbytes)
            if written != tensor.n_bytes:
                raise InvalidConfigError(f"tensor {tensor.name!r} has {written} bytes; allowed: {tensor.n_bytes}")
            file.write(bytes(-tensor.n_bytes % alignment))
        file.flush()
        os.fsync(file.fileno())
