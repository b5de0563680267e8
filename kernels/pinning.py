"""Which thread runs on which CPU: plans, which are pure, and their execution on Linux.

Threads that stay where they are find their caches and, on NUMA machines, their memory. Without pinning the scheduler
at times keeps two threads of a pool on one CPU: regions of 1.7 us were seen to take 64 us until it moved them.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any, TypeVar

import llvmlite.binding
import numba
import numpy as np
from numba import types
from numba.core import config
from numba.core.typing import signature

from .cache import kernel
from .cpu_limits import process_affinity
from .topology import Cpu, Topology, group_by

POLICIES = ("scatter", "compact", "off")

_WAIT_US = 50
_MAX_WAITS = 20_000  # a worker that has not come after some 2 s is not coming

Item = TypeVar("Item")


# ------------------------------------------------------------------------------------------------ plans


def plan_pinning(policy: str, num_threads: int, topology: Topology, allowed_cpus: Iterable[int]) -> list[int]:
    """The CPU of each of *num_threads* threads; an empty list means that nothing is to be pinned.

    ``scatter`` takes physical cores in turn from each NUMA node and each L3 cache, so that the threads share as little
    as possible; ``compact`` takes CPUs that share most: SMT siblings, then L2, then L3 neighbours. Both take fast
    cores before slow ones, and begin again when there are more threads than CPUs. ``off`` plans nothing.
    Raises ValueError for another policy and for less than one thread.
    """
    if policy not in POLICIES:
        raise ValueError(f"the pinning policy must be one of {', '.join(POLICIES)}, not {policy!r}")
    if num_threads < 1:
        raise ValueError(f"the number of threads must be at least 1, not {num_threads}")
    allowed = topology.among(allowed_cpus)
    if policy == "off" or not allowed:
        return []
    order = _scattered(allowed) if policy == "scatter" else _compact(allowed)
    return [order[thread % len(order)].number for thread in range(num_threads)]


def _compact(cpus: list[Cpu]) -> list[Cpu]:
    def place(cpu: Cpu) -> tuple:
        return cpu.is_efficient, cpu.package, cpu.node, cpu.l3, cpu.l2, cpu.core, cpu.number

    return sorted(cpus, key=place)


def _scattered(cpus: list[Cpu]) -> list[Cpu]:
    """All first siblings of the fast cores, those of the slow cores, then the second siblings, and so on."""
    siblings = [group for _, group in group_by(cpus, lambda cpu: cpu.core)]
    rounds = [[cpu for cpu in rank if cpu is not None] for rank in zip_longest(*siblings)]
    by_speed = [group for rank in rounds for _, group in sorted(group_by(rank, lambda cpu: cpu.is_efficient))]
    return [cpu for group in by_speed for cpu in _in_turn_from_nodes(group)]


def _in_turn_from_nodes(cpus: list[Cpu]) -> list[Cpu]:
    nodes = [group for _, group in group_by(cpus, lambda cpu: (cpu.package, cpu.node))]
    return _in_turn([_in_turn([group for _, group in group_by(node, lambda cpu: cpu.l3)]) for node in nodes])


def _in_turn(groups: Sequence[Sequence[Item]]) -> list[Item]:
    """The first item of each group, the second of each, and so on."""
    return [item for item in chain.from_iterable(zip_longest(*groups)) if item is not None]


# -------------------------------------------------------------------------------------------- execution

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
    """Pin worker i of the pool to CPU ``cpus[i % len(cpus)]``; True when every worker is where it was put.

    To be called by the thread that runs the kernels, after ``set_num_threads`` and again after each change of the
    number: new workers inherit the one CPU of the thread that starts them. That thread is pinned too, and
    no other: a main thread that waits for it keeps its mask.

    False, without an error and with nothing pinned, where it cannot be done: no *cpus*, not Linux, a sandbox that
    forbids it, a CPU outside of the process's cpuset.
    """
    process_affinity()  # noted before the first thread is narrowed
    thread_ids = worker_thread_ids() if cpus else []
    pinned = [_set_affinity(thread, {cpus[i % len(cpus)]}) for i, thread in enumerate(thread_ids)]
    if not all(pinned):
        _unpin(thread_ids)
    return bool(pinned) and all(pinned)


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
