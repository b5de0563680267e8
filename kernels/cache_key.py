"""What compiled code depends on: the name of the directory that holds it, and of each file in there.

Numba's own cache compares the file that defines a function, and so runs stale machine code after an edit to a
callee in another file. Here one key covers every source of the package, the compiler and the CPU; whatever is
not in the key (the argument types, the options, the variables of an enclosing function) names the file.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba.core import sigutils

from .tile_permission import tiles_allowed

PACKAGE = Path(__file__).parent

# Settings of Numba that do not reach the generated code. All others are part of the key.
_HARMLESS_SETTINGS = {
    "CACHE_DIR",
    "CACHE_LOCATOR_CLASSES",
    "CHROME_TRACE",
    "COLOR_SCHEME",
    "DEBUG_CACHE",
    "DISABLE_CUDA",
    "DISABLE_JIT",
    "FORCE_CUDA_CC",
    "FULL_TRACEBACKS",
    "FUNCTION_CACHE_SIZE",
    "GDB_BINARY",
    "NUMBA_DEFAULT_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "SHOW_HELP",
    "THREADING_LAYER",
    "THREADING_LAYER_PRIORITY",
}


@functools.cache
def directory_key() -> str:
    """32 hexadecimal digits that change with the sources, the compiler, the CPU and the settings.

    Computed once a process, in about a millisecond. Raises OSError when the sources cannot be read.
    """
    parts = [_sources_digest(), *_versions(), *_processor(), *_settings()]
    return _digest(*parts)


def _sources_digest() -> str:
    """Digest over names and contents of all sources of this package."""
    sha = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        content = path.read_bytes()
        sha.update(f"{path.relative_to(PACKAGE).as_posix()}\0{len(content)}\0".encode())
        sha.update(content)
    return sha.hexdigest()


def _versions() -> list[str]:
    python = f"{platform.python_implementation()} {sys.version} {getattr(sys, 'abiflags', '')}"
    return [python, numba.__version__, llvmlite.__version__, np.__version__, platform.machine(), sys.platform]


def _processor() -> list[str]:
    name = llvmlite.binding.get_host_cpu_name()
    features = llvmlite.binding.get_host_cpu_features().flatten(sort=True)
    return [name, features, os.environ.get("DENSECORE_ISA", ""), f"tiles: {tiles_allowed()}"]


def _settings() -> list[str]:
    """Every setting of Numba that may change the code (``NUMBA_BOUNDSCHECK``, ``NUMBA_OPT``, ...)."""
    settings = {name: value for name, value in vars(numba.config).items() if name.isupper()}
    return [f"{name}={settings[name]!r}" for name in sorted(settings.keys() - _HARMLESS_SETTINGS)]


def file_stem(function: Callable, options: Mapping[str, Any], signature: Any) -> str | None:
    """Name, without suffix, of the file for *function* compiled with *options* for *signature*.

    None when no name is the same in every process: such a function has to be compiled in each.
    """
    code = function.__code__
    if not Path(code.co_filename).is_relative_to(PACKAGE):
        return None
    arguments, result = sigutils.normalize_signature(signature)
    try:
        described = _describe((function, dict(options)))
    except (TypeError, RecursionError):
        return None
    types = f"{arguments} -> {result}"
    if " at 0x" in types:  # the type of a function or an object, named by its address
        return None
    name = f"{function.__module__}.{function.__qualname__}".replace("<locals>.", "")
    return f"{name.removeprefix(__package__ + '.')[:120]}-{_digest(described, types)}"


def _describe(value: Any) -> str:
    """A text that tells apart the values that kernels close over, the same in every process.

    Raises TypeError for values it knows no such text of.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic, np.dtype)):
        return f"{type(value).__name__}:{value!r}"
    if isinstance(value, numba.types.Type):
        return f"type:{value}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}({', '.join(map(_describe, value))})"
    if isinstance(value, (set, frozenset)):
        return f"set({', '.join(sorted(map(_describe, value)))})"
    if isinstance(value, dict):
        return f"dict({', '.join(sorted(_describe(item) for item in value.items()))})"
    if isinstance(value, np.ndarray):
        return f"array({value.dtype!r}, {value.shape}, {_digest(value.tobytes())})"
    function = getattr(value, "py_func", value)
    if not isinstance(function, FunctionType):
        raise TypeError(f"no stable description of a {type(value).__name__}")
    variables = [cell.cell_contents for cell in function.__closure__ or ()]
    where = f"{function.__module__}.{function.__qualname__}:{function.__code__.co_firstlineno}"
    return f"{where}({_describe(variables)}, {_describe(function.__defaults__)})"


def _digest(*parts: str | bytes) -> str:
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "little") + data)
    return sha.hexdigest()[:32]
