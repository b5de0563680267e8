"""Threads of the kernels: how many, on which CPUs, run by which library.

This is the whole of the interface; the parts are ``topology`` (what the machine has), ``cpu_limits`` (what the
process may use), ``placement`` (what that means for an engine's threads and memory), ``threading_layer`` (who runs
parallel regions), ``pinning`` (who runs where) and ``numa`` (where memory comes from).

One thread of a process, the kernel thread, is to call all parallel kernels. It does, for an engine::

    placement = plan_placement(config.threads, config.pinning, config.numa_node_id, pool_size=pool_size())
    set_num_threads(placement.num_threads)
    bind_worker_threads(placement.masks)
"""

from __future__ import annotations

from .cpu_limits import CpuLimits, default_thread_count, process_affinity, read_limits
from .numa import place_memory, set_thread_policy, touch
from .pinning import bind_worker_threads, pin_worker_threads, unpin_worker_threads, worker_thread_ids
from .pinning_plan import plan_pinning
from .placement import AUTO_NODE, Placement, plan_placement
from .threading_layer import (
    ThreadingLayerWarning,
    pool_size,
    set_num_threads,
    start_threading_layer,
    threading_layer,
)
from .topology import Cpu, Topology, read_topology

__all__ = [
    "AUTO_NODE",
    "Cpu",
    "CpuLimits",
    "Placement",
    "ThreadingLayerWarning",
    "Topology",
    "bind_worker_threads",
    "default_thread_count",
    "pin_worker_threads",
    "place_memory",
    "plan_pinning",
    "plan_placement",
    "pool_size",
    "process_affinity",
    "read_limits",
    "read_topology",
    "set_num_threads",
    "set_thread_policy",
    "start_threading_layer",
    "threading_layer",
    "touch",
    "unpin_worker_threads",
    "worker_thread_ids",
]
