"""How kernels are declared: ``@kernel``, ``@inlined`` and ``@outlined``, the only ways to compile a function here.

All give up Python's semantics in the same two places for the whole package: division by zero follows
IEEE 754 (``error_model="numpy"``), and compiled code runs without the interpreter lock (``nogil``).

Compiled kernels are kept in a private directory, so that only the first run on a CPU waits for the compiler:

* ``cache_key``        which directory belongs to these sources, this compiler and this CPU
* ``cache_directory``  where that directory lies, and whether it can be trusted
* ``kernel_cache``     the files in it, each checked before it is loaded
* ``progress``         what is being compiled right now
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from .cache_directory import CompileCacheWarning, cache_directory
from .inlining import InlinedCompiler, OutlinedCompiler
from .kernel_cache import Compilation, KernelCache, NotCompiled, collect_needed
from .progress import compile_progress, num_compiled, num_compiled_elsewhere, num_remaining

__all__ = [
    "INLINED_OPTIONS",
    "Compilation",
    "CompileCacheWarning",
    "NotCompiled",
    "cache_directory",
    "collect_needed",
    "compile_progress",
    "inlined",
    "kernel",
    "num_compiled",
    "num_compiled_elsewhere",
    "num_remaining",
    "outlined",
]

_COMMON_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
INLINED_OPTIONS: Any = {
    "pipeline_class": InlinedCompiler,
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


def kernel(function: Callable | None = None, /, *, twin: Callable | None = None, **options: Any) -> Any:
    """Declare a kernel: compiled, or loaded from the cache, at its first call with each set of argument types.

    Used plainly (``@kernel``) or with options of :func:`numba.njit` (``@kernel(parallel=True)``). Returns a
    Numba dispatcher; under ``NUMBA_DISABLE_JIT=1`` its readable `twin`, or the function itself without one.

    What a kernel compiles to may depend on the sources of this package, on its argument types, on the
    variables of an enclosing function, on the CPU and on ``DENSECORE_ISA``: the cache knows all of these, and
    nothing else. Functions of other packages can be kernels too, and are compiled anew in each process.
    """
    if function is None:
        return lambda decorated: kernel(decorated, twin=twin, **options)
    dispatcher = numba.njit(**_COMMON_OPTIONS, **options)(function)
    if dispatcher is function:
        return twin or function
    dispatcher._cache = KernelCache(function, options, dispatcher.compile)
    return dispatcher


def inlined(function: Callable | None = None, /, **options: Any) -> Any:
    """Declare a helper that LLVM inlines into each kernel that calls it; it has no cache file of its own.

    It cannot be called from Python, only from kernels: the wrappers for that would double its compile time.
    """
    if function is None:
        return lambda decorated: inlined(decorated, **options)
    return numba.njit(**INLINED_OPTIONS, **_COMMON_OPTIONS, **options)(function)


def outlined(function: Callable) -> Any:
    """Declare a helper like an `inlined` one that stays a function of its own within each kernel that calls it.

    For long helpers that are called in several places, or only one of which is needed at a time.
    """
    options = INLINED_OPTIONS | {"pipeline_class": OutlinedCompiler, "forceinline": False}
    return numba.njit(**options, **_COMMON_OPTIONS)(function)
