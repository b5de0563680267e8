"""Threads of the kernels: how many, on which CPUs, run by which library.

This is the whole of the interface; the parts are ``topology`` (what the machine has), ``cpu_limits`` (what the
process may use), ``threading_layer`` (who runs parallel regions) and ``pinning`` (who runs where).

One thread of a process, the kernel thread, is to call all parallel kernels. It does, for an engine::

    num_threads = set_num_threads(config.threads or default_thread_count())
    pin_worker_threads(plan_pinning(config.pinning, num_threads, read_topology(), process_affinity()))
"""

from __future__ import annotations

from .cpu_limits import CpuLimits, default_thread_count, process_affinity, read_limits
from .pinning import pin_worker_threads, plan_pinning, unpin_worker_threads, worker_thread_ids
from .threading_layer import (
    ThreadingLayerWarning,
    set_num_threads,
    start_threading_layer,
    threading_layer,
)
from .topology import Cpu, Topology, read_topology

__all__ = [
    "Cpu",
    "CpuLimits",
    "ThreadingLayerWarning",
    "Topology",
    "default_thread_count",
    "pin_worker_threads",
    "plan_pinning",
    "process_affinity",
    "read_limits",
    "read_topology",
    "set_num_threads",
    "start_threading_layer",
    "threading_layer",
    "unpin_worker_threads",
    "worker_thread_ids",
]
