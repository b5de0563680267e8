"""Threads of the pool, and memory, as an engine wants them: how many threads, where, and from which NUMA nodes."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable

import numpy as np

from densecore.config import EngineConfig
from densecore.kernels import threads

__all__ = ["WorkerThreads"]

# What the pool was told last, and by which thread: the number of threads is a thread's own setting.
_applied: tuple[int, threads.Placement] | None = None
_told: set[str] = set()


class WorkerThreads:
    """The setting of one engine; `apply` is called on the kernel thread before the engine computes.

    Everything is decided here, once, so that engines that take turns pay for system calls alone. What cannot be had is
    replaced by what comes nearest, with one `ThreadingLayerWarning` a process.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.placement = threads.plan_placement(
            config.threads, config.pinning, config.numa_node_id, pool_size=threads.pool_size()
        )
        for problem in self.placement.problems:
            _warn_once(problem)

    @property
    def num_threads(self) -> int:
        return self.placement.num_threads

    def apply(self) -> int:
        """Make the pool work this way, unless it already does, and return the number of threads."""
        global _applied
        wanted = (threading.get_ident(), self.placement)
        if _applied != wanted:
            threads.set_num_threads(self.num_threads)
            if self.placement.masks:
                threads.bind_worker_threads(self.placement.masks)
            else:
                threads.unpin_worker_threads()
            _applied = wanted
        return self.num_threads

    @property
    def places_memory(self) -> bool:
        """Whether memory has to be placed; not so on a machine with one node, where first touch does it all."""
        return bool(self.placement.nodes)

    def place(self, buffers: Iterable[np.ndarray], weights: Iterable[np.ndarray]) -> None:
        """Take the pages of `buffers`, and of `weights`, which lie in mapped files, from the placement's nodes.

        To be called on the kernel thread before its first step. Weights are read here: pages that are not in memory yet
        come to the right nodes by that, and those of an earlier reader are moved, where no one else uses them.
        """
        nodes = self.placement.nodes
        problems = [threads.place_memory(array, nodes) for array in buffers]
        problems.append(threads.set_thread_policy(nodes))
        try:
            for array in weights:
                threads.touch(array)
                problems.append(threads.place_memory(array, nodes, move=True))
        finally:
            threads.set_thread_policy(())
        for problem in filter(None, problems):
            where = " and ".join(map(str, nodes))
            _warn_once(
                f"memory cannot be placed on NUMA node {where} ({problem}), and lies where it is first touched; "
                "a container needs the capability SYS_NICE for that (docker run --cap-add SYS_NICE)"
            )
            break


def _warn_once(problem: str) -> None:
    if problem not in _told:
        _told.add(problem)
        warnings.warn(problem, threads.ThreadingLayerWarning, stacklevel=4)
