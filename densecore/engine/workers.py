"""Threads of the pool as an engine wants them: how many, and pinned where."""

from __future__ import annotations

from densecore.config import EngineConfig
from densecore.kernels import threads

__all__ = ["WorkerThreads"]

_current: WorkerThreads | None = None


class WorkerThreads:
    """The setting of one engine; `apply` is called on the kernel thread before the engine computes."""

    def __init__(self, config: EngineConfig) -> None:
        self.num_threads = config.threads or threads.default_thread_count()
        self.pinning = config.pinning

    def apply(self) -> int:
        """Make the pool work this way, unless it already does, and return the number of threads."""
        global _current
        if _current is not self:
            threads.start_threading_layer()
            self.num_threads = threads.set_num_threads(self.num_threads)
            cpus = self._cpus()
            if cpus:
                threads.pin_worker_threads(cpus)
            else:
                threads.unpin_worker_threads()
            _current = self
        return self.num_threads

    def _cpus(self) -> list[int]:
        """The CPU of each thread, empty to leave placement to the system.

        Under a cgroup quota nothing is pinned: containers that share a machine would all choose the same CPUs.
        """
        if threads.read_limits().is_throttled:
            return []
        return threads.plan_pinning(self.pinning, self.num_threads, threads.read_topology(), threads.process_affinity())
