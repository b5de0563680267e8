"""Which thread is to run on which CPU: plans, which are pure. `pinning` carries them out.

Threads that stay where they are find their caches and, on NUMA machines, their memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from typing import TypeVar

from .topology import Cpu, Topology, group_by

POLICIES = ("scatter", "compact", "off")

Item = TypeVar("Item")


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
