"""From a path to bytes: opens a model file, maps or reads it, and names what is not GGUF at all."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from io import BufferedReader
from pathlib import Path

from densecore.exceptions import ModelLoadError
from densecore.gguf.errors import load_error, printable

__all__ = ["guess_format", "open_bytes"]

_READ_CHUNK = 1 << 26  # bytes per read; a single read call is limited to 2 GiB on Linux


def open_bytes(path: Path, *, use_mmap: bool) -> mmap.mmap:
    """The whole file as a page-aligned map: of the file itself, or of memory that it was read into.

    Raises ModelLoadError if `path` is missing, not a regular file, empty, unreadable, or too large to map.
    """
    try:
        mode = os.stat(path).st_mode  # before opening: to open a named pipe would wait for a writer
        if not stat.S_ISREG(mode):
            raise load_error(path, "path", _file_kind(mode), "a regular GGUF file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise load_error(path, "file size", "is 0: the file is empty", "a GGUF file")
            if use_mmap:
                return _in_huge_pages(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
            return _read_all(path, file, size)
    except (OSError, OverflowError, MemoryError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error) or "not enough memory"
        raise ModelLoadError(f"{printable(path)}: cannot open the model file: {reason}") from error


def _file_kind(mode: int) -> str:
    return "is a directory" if stat.S_ISDIR(mode) else "is not a regular file (a device, pipe or socket)"


def _in_huge_pages(memory: mmap.mmap) -> mmap.mmap:
    """The map, for which huge pages are asked, where the system has them.

    A step reads all weights once: with pages of 4 KiB, looking up their addresses costs up to a third of the speed.
    Linux keeps files in huge pages on some file systems, ext4 and xfs among them, if they are not in memory yet.
    """
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _read_all(path: Path, file: BufferedReader, size: int) -> mmap.mmap:
    """Reads `size` bytes into anonymous memory, whose start is aligned to a page as a file map's is."""
    memory = _in_huge_pages(mmap.mmap(-1, size))
    with memoryview(memory) as view:
        done = 0
        while done < size:
            count = file.readinto(view[done : done + _READ_CHUNK])
            if count == 0:
                raise load_error(path, "file", f"ended after {done} bytes while it was read", f"{size} bytes")
            done += count
    return memory


_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive, as PyTorch writes its checkpoints"),
    (b"version https://git-lfs", "a Git LFS pointer: the model itself was not downloaded (git lfs pull)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"FUGG", "a GGUF file with its bytes swapped"),
    (b"lmgg", "a GGML file of 2023, from before GGUF"),
    (b"fmgg", "a GGMF file of 2023, from before GGUF"),
    (b"tjgg", "a GGJT file of 2023, from before GGUF"),
    (b"algg", "a GGLA adapter of 2023, from before GGUF"),
)


def guess_format(head: bytes) -> str | None:
    """What a file that does not start with ``GGUF`` looks like, judged by its first bytes; None if unknown."""
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return "a Python pickle, as PyTorch wrote its checkpoints"
    if head[8:9] == b"{":
        return "a safetensors file (densecore convert makes GGUF of its folder)"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page: the download failed or needs a login"
    if text.startswith(b"{"):
        return "a JSON file"
    return None
