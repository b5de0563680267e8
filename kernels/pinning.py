"""Puts the pool's threads on the CPUs that a plan gives them (see `pinning_plan`), on Linux.

Without pinning the scheduler at times keeps two threads of a pool on one CPU: regions of 1.7 us were seen to take 64 us
until it moved them.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from numba import types
from numba.core import config
from numba.core.typing import signature

from .cache import kernel
from .cpu_limits import process_affinity

_WAIT_US = 50
_MAX_WAITS = 20_000  # a worker that has not come after some 2 s is not coming

_gettid: Any = types.ExternalFunction("densecore_gettid", signature(types.int32))
_usleep: Any = types.ExternalFunction("densecore_usleep", signature(types.int32, types.uint32))


@kernel(parallel=True)
def _collect_thread_ids(thread_ids):
    """Fill *thread_ids* (num_threads,) int64, zero before, with the system's id of each worker of the pool.

    Each task waits until all have begun: else a fast worker could run the tasks of a slow one, too.
    """
    for task in numba.prange(thread_ids.size):
        thread_ids[task] = _gettid()
        for _ in range(_MAX_WAITS):
            if thread_ids.all():
                break
            _usleep(_WAIT_US)


def _bind_system_calls() -> bool:
    """Give the kernel the C library's functions by address; False if there are none (not Linux, an old glibc)."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    for name in ("gettid", "usleep"):
        function = getattr(library, name, None)
        if function is None:
            return False
        llvmlite.binding.add_symbol(f"densecore_{name}", ctypes.cast(function, ctypes.c_void_p).value)
    return True


def worker_thread_ids() -> list[int]:
    """The system's thread id of each worker of the pool; [] where they cannot be told.

    To be called by the thread that runs the kernels. With OpenMP and TBB it is a worker itself, the first.
    """
    if config.DISABLE_JIT or not _bind_system_calls():  # type: ignore[attr-defined]
        return []
    thread_ids = np.zeros(numba.get_num_threads(), np.int64)
    _collect_thread_ids(thread_ids)
    distinct = list(dict.fromkeys(thread_ids.tolist()))
    return distinct if len(distinct) == thread_ids.size else []


def pin_worker_threads(cpus: Sequence[int]) -> bool:
    """Pin worker i of the pool to CPU ``cpus[i % len(cpus)]``; see `bind_worker_threads`."""
    return bind_worker_threads([{cpu} for cpu in cpus])


def bind_worker_threads(masks: Sequence[Collection[int]]) -> bool:
    """Let worker i run on the CPUs ``masks[i % len(masks)]`` alone; True when every worker is where it was put.

    To be called by the thread that runs the kernels, after ``set_num_threads`` and again after each change of the
    number: new workers inherit the CPUs of the thread that starts them. That thread is bound too, and
    no other: a main thread that waits for it keeps its mask.

    False, without an error and with nothing bound, where it cannot be done: no *masks*, not Linux, a sandbox that
    forbids it, a CPU outside of the process's cpuset.
    """
    process_affinity()  # noted before the first thread is narrowed
    thread_ids = worker_thread_ids() if masks else []
    bound = [_set_affinity(thread, set(masks[i % len(masks)])) for i, thread in enumerate(thread_ids)]
    if not all(bound):
        _unpin(thread_ids)
    return bool(bound) and all(bound)


def unpin_worker_threads() -> bool:
    """Let the pool's workers, and the calling thread, run on all CPUs of the process again; True if they can."""
    return hasattr(os, "sched_setaffinity") and _unpin([*worker_thread_ids(), threading.get_native_id()])


def _unpin(thread_ids: Iterable[int]) -> bool:
    released = [_set_affinity(thread, set(process_affinity())) for thread in thread_ids]
    return all(released)


def _set_affinity(thread_id: int, cpus: set[int]) -> bool:
    """Whether the thread now runs on *cpus* and nowhere else."""
    try:
        os.sched_setaffinity(thread_id, cpus)
        return os.sched_getaffinity(thread_id) == cpus
    except OSError:
        return False
