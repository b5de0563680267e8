"""A GGUF file, validated from end to end when it is opened: the one reader for every consumer."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from types import TracebackType

import numpy as np

from densecore.exceptions import ModelLoadError
from densecore.gguf.cursor import Cursor
from densecore.gguf.errors import describe, load_error, printable
from densecore.gguf.head import Head, read_head
from densecore.gguf.metadata import Metadata
from densecore.gguf.source import open_bytes
from densecore.gguf.splits import TENSORS_KEY, check_part, part_paths
from densecore.gguf.tensors import TensorInfo

__all__ = ["GGUFFile"]


class GGUFFile:
    """Metadata and tensors of a model, in one file or in several parts.

    Made by `open`. Attributes:

    * ``path``: the file that was named; ``paths``: all parts, in order;
    * ``version``, ``alignment``: of the first part;
    * ``metadata``: of the first part; later parts repeat none of it;
    * ``tensors``: by name, in file order, over all parts; empty for a file that holds only a vocabulary.
    """

    def __init__(self, path: Path, paths: list[Path], heads: list[Head], maps: list[mmap.mmap]) -> None:
        self.path = path
        self.paths = tuple(paths)
        self.version = heads[0].version
        self.alignment = heads[0].alignment
        self.metadata: Metadata = heads[0].metadata
        self.tensors: dict[str, TensorInfo] = _join(paths, heads)
        self._data: list[np.ndarray] | None = [_as_bytes(data) for data in maps]

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, use_mmap: bool = True) -> GGUFFile:
        """Opens and validates `path`; any part of a split model stands for the whole of it.

        With `use_mmap` the tensor data stays in the file and is paged in when touched. If something
        truncates a mapped file later, touching the lost part kills the process, and no Python code can
        catch that; ``use_mmap=False`` reads everything into memory first.

        Raises ModelLoadError for whatever is wrong with a file: file, field, value, and what is allowed.
        """
        path = Path(path)
        paths = part_paths(path)
        heads, maps = [], []
        for index, part in enumerate(paths):
            try:
                data = open_bytes(part, use_mmap=use_mmap)
                head = read_head(Cursor(part, data), index)
            except MemoryError as error:
                raise ModelLoadError(f"{printable(part)}: not enough memory to read its metadata") from error
            check_part(head.metadata, index, len(paths))
            heads.append(head)
            maps.append(data)
        return cls(path, paths, heads, maps)

    def tensor_data(self, name: str) -> np.ndarray:
        """The bytes of tensor `name`: uint8, shape (n_bytes,), read-only, a view that copies nothing.

        Raises ModelLoadError if there is no such tensor, or after `close`.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            problem = f"tensor {describe(name)}"
            raise load_error(self.path, problem, "is missing", f"one of the {len(self.tensors)} tensors")
        if self._data is None:
            raise ModelLoadError(f"{printable(self.path)}: the file is closed; open it again to read tensors")
        return self._data[tensor.part][tensor.offset : tensor.offset + tensor.n_bytes]

    @property
    def mapped(self) -> list[np.ndarray]:
        """The bytes of the whole file, or of each of its parts: uint8, read-only views. Empty after `close`."""
        return list(self._data or ())

    def close(self) -> None:
        """Lets go of the file. Views handed out stay valid: the map ends with the last of them."""
        self._data = None

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<GGUFFile {printable(self.path)}: {len(self.metadata)} keys, {len(self.tensors)} tensors>"


def _as_bytes(data: mmap.mmap) -> np.ndarray:
    return np.frombuffer(memoryview(data).toreadonly(), np.uint8)


def _join(paths: list[Path], heads: list[Head]) -> dict[str, TensorInfo]:
    """The tensors of all parts; ModelLoadError if a name appears twice or some are not there."""
    tensors: dict[str, TensorInfo] = {}
    for path, head in zip(paths, heads, strict=True):
        for tensor in head.tensors:
            if tensor.name in tensors:
                first = printable(paths[tensors[tensor.name].part].name)
                problem = f"is also in the part {first}"
                raise load_error(path, f"tensor {describe(tensor.name)}", problem, "each name once")
            tensors[tensor.name] = tensor
    _check_total(heads)
    return tensors


def _check_total(heads: list[Head]) -> None:
    """ModelLoadError unless every part that says how many tensors the model has is right, and the first says so."""
    total = sum(len(head.tensors) for head in heads)
    for index, head in enumerate(heads):
        required = index == 0 and len(heads) > 1
        metadata = head.metadata
        said = metadata.integer(TENSORS_KEY) if required else metadata.integer(TENSORS_KEY, total)
        if said != total:
            allowed = f"{total}, the tensors of all {len(heads)} part(s) together"
            raise metadata.error(TENSORS_KEY, f"is {said}", allowed)
