"""Where an engine's threads and memory go, decided from what was asked for and what there is. Nothing is done here.

What cannot be had is replaced by what comes nearest, and told in words: a caller shows them once and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .cpu_limits import CpuLimits, default_thread_count, read_limits
from .pinning_plan import plan_pinning
from .topology import Topology, read_topology

AUTO_NODE = -1


@dataclass(frozen=True)
class Placement:
    """How many threads, which CPUs each may run on, and the NUMA nodes of their memory."""

    num_threads: int
    masks: tuple[frozenset[int], ...]  # one a worker; empty: the process's own
    nodes: tuple[int, ...]  # that memory is to come from; empty: as the system does it
    reason: str  # why threads are not pinned to a CPU each; empty if they are
    problems: tuple[str, ...] = ()  # what was asked for and cannot be had

    @property
    def cpus(self) -> tuple[int, ...]:
        """The CPU of each worker; empty unless each is pinned to one."""
        if not all(len(mask) == 1 for mask in self.masks):
            return ()
        return tuple(cpu for mask in self.masks for cpu in mask)


def plan_placement(
    num_threads: int = 0,
    policy: str = "scatter",
    node: int = AUTO_NODE,
    *,
    topology: Topology | None = None,
    limits: CpuLimits | None = None,
    pool_size: int | None = None,
) -> Placement:
    """Place `num_threads` workers (0: as many as are worth while) by `policy` on NUMA node `node` (-1: all nodes).

    * A node that is not there, or none of whose CPUs this process may use, becomes -1.
    * More threads than CPUs, or than the pool has (`pool_size`), become as many as there are.
    * On a node, default and limit count that node's CPUs only, and memory comes from there.
    * Without a node, memory comes in turn from the nodes of the threads, and by first touch where that is one node.
    * Under a cgroup quota no thread gets a CPU of its own: containers that share a machine would all choose the same.

    Raises ValueError for an unknown policy and for less than 0 threads.
    """
    topology, limits = topology or read_topology(), limits or read_limits()
    problems: list[str] = []
    is_bound = _is_usable(node, topology, limits, problems) and len(topology.nodes) > 1
    allowed = limits.affinity & topology.nodes[node] if is_bound else limits.affinity
    wanted = num_threads or default_thread_count(CpuLimits(allowed, limits.quota), topology)
    count = _clamped(wanted, bool(num_threads), allowed, limits, pool_size, problems)

    reason = _reason_against(policy, limits)
    cpus = plan_pinning("off" if reason else policy, count, topology, allowed)
    masks: Sequence[frozenset[int]] = [frozenset({cpu}) for cpu in cpus]
    if not masks and is_bound:
        masks = [allowed] * count
    return Placement(count, tuple(masks), _memory_nodes(topology, allowed, cpus, is_bound), reason, tuple(problems))


def _is_usable(node: int, topology: Topology, limits: CpuLimits, problems: list[str]) -> bool:
    """Whether a node was asked for, is there, and has CPUs that this process may use."""
    if node == AUTO_NODE:
        return False
    found = topology.nodes.get(node)
    if found is None:
        there = ", ".join(map(str, sorted(topology.nodes)))
        problems.append(f"NUMA node {node} was asked for, but the nodes with CPUs here are {there}: going on with all")
    elif not found & limits.affinity:
        problems.append(f"this process may use no CPU of NUMA node {node} (its affinity mask): going on with all nodes")
        found = None
    return found is not None


def _clamped(
    wanted: int, is_explicit: bool, allowed: frozenset[int], limits: CpuLimits, pool: int | None, problems: list[str]
) -> int:
    """As many of the wanted threads as can run at once."""
    if wanted < 0:
        raise ValueError(f"the number of threads must be at least 0, not {wanted}")
    count = min(wanted, len(allowed))
    if count < wanted:
        problems.append(f"{wanted} threads were asked for, but they would have {count} CPUs: going on with {count}")
    if pool is not None and pool < count:
        if is_explicit:
            problems.append(
                f"{wanted} threads were asked for, but Numba's pool has {pool}: going on with {pool}; "
                f"set NUMBA_NUM_THREADS={count} before the program starts"
            )
        count = pool
    if is_explicit and limits.quota is not None and count > max(limits.quota, 1):
        problems.append(
            f"{count} threads share a cgroup quota of {limits.quota:g} CPUs, and will all be stopped for part of the "
            f"time: {default_thread_count(limits)} would be faster"
        )
    return count


def _reason_against(policy: str, limits: CpuLimits) -> str:
    if policy == "off":
        return "pinning is off"
    if limits.is_throttled:
        return f"a cgroup quota of {limits.quota:g} CPUs"
    return ""


def _memory_nodes(topology: Topology, allowed: frozenset[int], cpus: Sequence[int], is_bound: bool) -> tuple[int, ...]:
    used = {cpu.node for cpu in topology.among(cpus or allowed)}
    return tuple(sorted(used)) if is_bound or len(used) > 1 else ()
