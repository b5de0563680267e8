"""The files of the compile cache: one for each kernel and set of argument types.

Numba keeps an index file for each function, which two processes that compile different signatures at once
overwrite for each other. Here the name of a file says all that the index would, so there is none, and a file is
written whole or not at all. Layout of a file:

    magic     16 bytes
    digest    32 bytes    SHA-256 over directory key, file name and payload
    payload               pickle of (argument types, Numba's serialised compile result)

A file is unpickled only after owner, mode, magic and digest are found right. The digest guards against
accidents (a flipped bit, a file cut short by a full disk, a file copied to the wrong place); owner and mode are
what guards against others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numba.core import sigutils
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from .cache_directory import cache_directory, check_private, warn_once
from .cache_key import file_stem
from .threading_layer import choose_threading_layer

_MAGIC = b"densecore-kern1\n"
_DIGEST_BYTES = 32
SUFFIX = ".kernel"


class BadCacheFile(Exception):
    """A cache file that must not be loaded."""


class NotCompiled(Exception):
    """Raised within `collect_needed` where a kernel would have been compiled."""


@dataclass(frozen=True)
class Compilation:
    """One kernel, for one set of argument types, that the cache does not hold."""

    name: str  # of the file, the same in every process
    description: str  # function and argument types, for people
    compile: Callable[[], object]  # does it, and puts it into the cache


_collecting = threading.local()


@contextlib.contextmanager
def collect_needed() -> Iterator[dict[str, Compilation]]:
    """Find out what a piece of code would have to compile, by name, without compiling.

    Within this block, and on this thread alone, kernels that lie in the cache are loaded and work as ever; the call
    of another one raises `NotCompiled` and adds it to the result.
    """
    needed: dict[str, Compilation] = {}
    _collecting.needed = needed
    try:
        yield needed
    finally:
        del _collecting.needed


class KernelCache(_Cache):
    """Loads and saves the compiled versions of one function; takes the place of Numba's ``FunctionCache``.

    Never raises on account of the file system or of a file's content: a version that cannot be loaded is
    compiled, one that cannot be saved is compiled again by the next process.
    """

    def __init__(self, function: Callable, options: Mapping[str, Any], compile: Callable[[Any], object]):
        self._function = function
        self._options = options
        self._compile = compile
        self._enabled = True

    @property
    def cache_path(self) -> str | None:
        """The directory of the files, as Numba's statistics show it."""
        directory = cache_directory()
        return None if directory is None else str(directory)

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        """Forget what is kept of this function; files of other signatures are rewritten as they are compiled."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled version for the argument types of *sig*, or None when it has to be compiled."""
        choose_threading_layer()  # no parallel kernel gets to run without having been here
        target_context.refresh()
        path = self._path(sig)
        loaded = None if path is None else self._load(path, sig, target_context)
        needed = getattr(_collecting, "needed", None)
        if loaded is None and path is not None and needed is not None:
            name, description = path.name, f"{self._function.__qualname__} {sig}"
            needed[name] = Compilation(name, description, lambda: self._compile(sig))
            raise NotCompiled(description)
        return loaded

    def _load(self, path: Path, sig: Any, target_context: Any) -> Any:
        """What a file holds; None if it is not there, or cannot be used and is therefore deleted."""
        try:
            arguments, reduced = pickle.loads(read_payload(path))
            if arguments != sigutils.normalize_signature(sig)[0]:
                raise BadCacheFile(f"{path} holds another signature")
            return CompileResult._rebuild(target_context, *reduced)
        except FileNotFoundError:
            return None
        except Exception:  # whatever a damaged file makes pickle, Numba or LLVM raise: compile instead
            with contextlib.suppress(OSError):
                path.unlink()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the freshly compiled version *data*, if it means the same in another process."""
        path = self._path(sig)
        if path is None or data.library.has_dynamic_globals or data.lifted:
            return
        payload = dumps((sigutils.normalize_signature(sig)[0], data._reduce()))
        try:
            write_payload(path, payload)
        except OSError as error:
            warn_once(f"a compiled kernel cannot be kept in {path.parent}: {error}")

    def _path(self, sig: Any) -> Path | None:
        directory = cache_directory() if self._enabled else None
        stem = None if directory is None else file_stem(self._function, self._options, sig)
        return None if directory is None or stem is None else directory / (stem + SUFFIX)


def read_payload(path: Path) -> bytes:
    """The payload of a cache file. Raises BadCacheFile or OSError unless every check passes."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        check_private(path, status)
        if not stat.S_ISREG(status.st_mode):
            raise BadCacheFile(f"{path} is not a regular file")
        content = file.read()
    digest_end = len(_MAGIC) + _DIGEST_BYTES
    magic, digest, payload = content[: len(_MAGIC)], content[len(_MAGIC) : digest_end], content[digest_end:]
    if magic != _MAGIC or digest != _file_digest(path, payload):
        raise BadCacheFile(f"{path} is damaged")
    return payload


def write_payload(path: Path, payload: bytes) -> None:
    """Write a cache file in one step: other processes see all of it or nothing. Raises OSError."""
    path.parent.mkdir(mode=0o700, exist_ok=True)  # another process may have pruned it
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with open(descriptor, "wb") as file:
            file.write(_MAGIC + _file_digest(path, payload) + payload)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _file_digest(path: Path, payload: bytes) -> bytes:
    sha = hashlib.sha256(f"{path.parent.name}/{path.name}\0".encode())
    sha.update(payload)
    return sha.digest()
