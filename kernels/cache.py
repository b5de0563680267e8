"""How kernels are declared: ``@kernel`` and ``@inlined``, the only two ways to compile a function here.

Both give up Python's semantics in the same two places for the whole package: division by zero follows IEEE 754
(``error_model="numpy"``), and compiled code runs without the interpreter lock (``nogil``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

__all__ = ["inlined", "kernel"]

_COMMON_OPTIONS = {"nogil": True, "error_model": "numpy"}


def kernel(function: Callable | None = None, /, *, parallel: bool = False, **options: Any) -> Any:
    """Declare a kernel: compiled at its first call with each set of argument types.

    Used plainly (``@kernel``) or with options of :func:`numba.njit` (``@kernel(parallel=True, fastmath={"contract"})``).
    Returns a Numba dispatcher, or the function itself under ``NUMBA_DISABLE_JIT=1``.
    """
    if function is None:
        return lambda decorated: kernel(decorated, parallel=parallel, **options)
    return numba.njit(function, parallel=parallel, **_COMMON_OPTIONS, **options)


def inlined(function: Callable | None = None, /, **options: Any) -> Any:
    """Declare a helper that LLVM inlines into each kernel that calls it; it has no cache file of its own."""
    if function is None:
        return lambda decorated: inlined(decorated, **options)
    return numba.njit(function, forceinline=True, **_COMMON_OPTIONS, **options)
