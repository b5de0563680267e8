"""A sequence's part of the KV cache as a file, to go on with it in another process.

::

    magic (8 bytes), length of the header (uint32), header (JSON), token ids (int32),
    keys and values of each layer: the blocks of the sequence one after the other, as they lie in the cache,
    BLAKE2b of all of this (32 bytes)

Numbers are little-endian. The header says what the bytes depend on: model, version of DenseCore, sizes. A file that
differs in any of it is refused, and so is one that is damaged; sizes are checked before anything is allocated.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from densecore.engine.block_manager import BlockManager, Prefix
from densecore.engine.sequence import Sequence
from densecore.exceptions import DenseCoreError, InvalidConfigError, ModelLoadError
from densecore.models import KVCache

__all__ = ["SavedCache", "put_in", "read_cache", "take_out", "write_cache"]

MAGIC = b"DenseKV\x01"  # with the version of the format
MAX_HEADER = 4096  # bytes
DIGEST_BYTES = 32


@dataclass(frozen=True)
class SavedCache:
    """Tokens, and their keys and values: of each layer two arrays (num_blocks, ...) as in `KVCache`."""

    token_ids: list[int]
    arrays: list[np.ndarray]


def take_out(blocks: BlockManager, cache: KVCache, sequence: Sequence) -> SavedCache:
    """A copy of what the cache holds of the sequence's tokens but the last. On the kernel thread."""
    prefix = blocks.find_prefix(sequence)
    used = [*prefix.blocks, *([prefix.source] if prefix.num_copied else [])]
    return SavedCache(sequence.token_ids[: prefix.num_tokens], [array[used] for array in cache.arrays])


def put_in(blocks: BlockManager, cache: KVCache, sequence: Sequence, saved: SavedCache) -> None:
    """Leave what was saved in free blocks, where requests find it; `sequence` has its tokens. On the kernel thread."""
    num_tokens = len(saved.token_ids)
    if blocks.missing(Prefix(), num_tokens):
        raise InvalidConfigError(
            f"{num_tokens} saved tokens need {len(saved.arrays[0])} blocks of the KV cache, and only {blocks.num_free} "
            "are free: load them when fewer requests run"
        )
    blocks.start(sequence, Prefix(), num_tokens)
    for array, content in zip(cache.arrays, saved.arrays, strict=True):
        array[sequence.block_table] = content
    sequence.num_cached_tokens = num_tokens
    blocks.release(sequence)


def write_cache(path: Path, identity: dict[str, Any], saved: SavedCache) -> None:
    """Write under a temporary name, flush, and rename. DenseCoreError if that fails; an older file stays then."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    header = json.dumps(identity | {"num_tokens": len(saved.token_ids)}).encode()
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    try:
        with open(temporary, "xb") as file:
            arrays = [np.array(saved.token_ids, "<i4"), *saved.arrays]
            parts: list[Any] = [MAGIC, struct.pack("<I", len(header)), header, *(array.data for array in arrays)]
            for part in parts:
                digest.update(part)
                file.write(part)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DenseCoreError(f"{path}: cannot write the file: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read_cache(path: Path, identity: dict[str, Any], cache: KVCache, max_tokens: int) -> SavedCache:
    """What `write_cache` wrote; ModelLoadError if it is not for this model, or damaged."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with _opened(path) as file:
        num_tokens = _read_header(path, file, digest, identity, max_tokens)
        num_blocks = -(-num_tokens // cache.block_size)
        shapes = [(num_blocks, *array.shape[1:]) for array in cache.arrays]
        arrays = [np.empty(num_tokens, "<i4")]
        arrays += [np.empty(shape, array.dtype) for shape, array in zip(shapes, cache.arrays, strict=True)]
        expected = file.tell() + sum(array.nbytes for array in arrays) + DIGEST_BYTES
        if os.fstat(file.fileno()).st_size != expected:
            actual = os.fstat(file.fileno()).st_size
            raise ModelLoadError(f"{path}: the file has {actual} bytes; {num_tokens} tokens take {expected}")
        for array in arrays:
            file.readinto(array.data.cast("B"))
            digest.update(array.data)
        if file.read(DIGEST_BYTES) != digest.digest():
            raise ModelLoadError(f"{path}: the file is damaged: its checksum does not fit")
    return SavedCache(arrays[0].tolist(), arrays[1:])


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot read the file: {error.strerror or error}") from error


def _read_header(
    path: Path, file: BufferedReader, digest: hashlib.blake2b, identity: dict[str, Any], max_tokens: int
) -> int:
    """Check all that comes before the token ids, and return their number."""
    start = file.read(len(MAGIC) + 4)
    if len(start) < len(MAGIC) + 4 or not start.startswith(MAGIC):
        raise ModelLoadError(f"{path}: not a saved cache of this version of the format")
    (length,) = struct.unpack("<I", start[len(MAGIC) :])
    text = file.read(min(length, MAX_HEADER))
    try:
        header = json.loads(text) if length == len(text) else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ModelLoadError(f"{path}: the header of {length} bytes is damaged")
    digest.update(start)
    digest.update(text)
    for name, wanted in identity.items():
        if header.get(name) != wanted:
            raise ModelLoadError(f"{path}: saved with {name} {header.get(name)!r:.80}; here it is {wanted!r}")
    num_tokens = header.get("num_tokens")
    if type(num_tokens) is not int or not 1 <= num_tokens <= max_tokens:
        raise ModelLoadError(f"{path}: num_tokens is {num_tokens!r:.40}; allowed: 1 to {max_tokens}")
    return num_tokens
