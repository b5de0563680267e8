"""The machine's processors as /sys describes them: cores, SMT siblings, caches, NUMA nodes, hybrid cores.

Source: Linux, Documentation/ABI/stable/sysfs-devices-system-cpu and Documentation/admin-guide/cputopology.rst. What
a file does not say (other systems, containers that hide /sys) is assumed to be as plain as possible: every CPU a
core of its own, one package, one node, all alike. Nothing here raises, and nothing imports numba.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_ROOT = Path("/")
# A core with less than this share of the fastest core's capacity is an efficiency core. Equal cores of one CPU
# differ by a few percent in what the firmware says; little cores of any maker have less than two thirds.
_EFFICIENCY_SHARE = 0.75

Key = TypeVar("Key")


@dataclass(frozen=True)
class Cpu:
    """One logical processor. Groups are named by the lowest CPU number in them."""

    number: int
    core: int  # physical core: SMT siblings share it
    package: int
    node: int  # NUMA node
    l2: int
    l3: int
    is_efficient: bool = False  # a slow core of a hybrid machine


@dataclass(frozen=True)
class Topology:
    """The online processors, ordered by number."""

    cpus: tuple[Cpu, ...]

    @property
    def num_cores(self) -> int:
        return len({cpu.core for cpu in self.cpus})

    @property
    def num_packages(self) -> int:
        return len({cpu.package for cpu in self.cpus})

    @property
    def nodes(self) -> dict[int, frozenset[int]]:
        """NUMA node -> numbers of its CPUs; nodes of memory alone are left out."""
        return {node: frozenset(cpu.number for cpu in group) for node, group in group_by(self.cpus, _node)}

    @property
    def is_hybrid(self) -> bool:
        return len({cpu.is_efficient for cpu in self.cpus}) > 1

    def among(self, allowed: Iterable[int]) -> list[Cpu]:
        """The online CPUs whose numbers are in *allowed*."""
        numbers = set(allowed)
        return [cpu for cpu in self.cpus if cpu.number in numbers]


def _node(cpu: Cpu) -> int:
    return cpu.node


def group_by(cpus: Iterable[Cpu], key: Callable[[Cpu], Key]) -> list[tuple[Key, list[Cpu]]]:
    """(key, CPUs with that key), in the order in which the keys first appear."""
    groups: dict[Key, list[Cpu]] = defaultdict(list)
    for cpu in cpus:
        groups[key(cpu)].append(cpu)
    return list(groups.items())


def parse_cpu_list(text: str) -> list[int]:
    """CPU numbers of a kernel list such as ``0-3,8,10-11``, ascending; [] for text that is none."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match:
            first = int(match[1])
            numbers.update(range(first, int(match[2] or first) + 1))
    return sorted(numbers)


def read_text(path: Path) -> str:
    """The stripped content of a small file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def read_topology(root: Path = _ROOT) -> Topology:
    """The topology beneath *root* (tests bring a tree of their own)."""
    devices = root / "sys/devices/system"
    numbers = parse_cpu_list(read_text(devices / "cpu/online")) or list(range(os.cpu_count() or 1))
    node_of = _nodes(devices / "node")
    efficient = _efficiency_cores(root, numbers)
    return Topology(tuple(_read_cpu(devices / f"cpu/cpu{n}", n, node_of.get(n, 0), n in efficient) for n in numbers))


def _read_cpu(directory: Path, number: int, node: int, is_efficient: bool) -> Cpu:
    topology = directory / "topology"
    siblings = read_text(topology / "core_cpus_list") or read_text(topology / "thread_siblings_list")
    package = read_text(topology / "physical_package_id")
    core = _lowest(siblings, number)
    l2 = _shared_cache(directory, level=2, default=core)
    return Cpu(
        number=number,
        core=core,
        package=int(package) if package.isdigit() else 0,  # "-1" where the firmware does not say
        node=node,
        l2=l2,
        l3=_shared_cache(directory, level=3, default=l2),
        is_efficient=is_efficient,
    )


def _lowest(cpu_list: str, default: int) -> int:
    numbers = parse_cpu_list(cpu_list)
    return numbers[0] if numbers else default


def _shared_cache(directory: Path, level: int, default: int) -> int:
    """The lowest CPU that shares this one's cache of that level."""
    for index in sorted(directory.glob("cache/index*")):
        if read_text(index / "level") == str(level) and read_text(index / "type") != "Instruction":
            return _lowest(read_text(index / "shared_cpu_list"), default)
    return default


def _nodes(directory: Path) -> dict[int, int]:
    """CPU number -> NUMA node."""
    return {
        cpu: int(node.name.removeprefix("node"))
        for node in directory.glob("node[0-9]*")
        for cpu in parse_cpu_list(read_text(node / "cpulist"))
    }


def _efficiency_cores(root: Path, numbers: Sequence[int]) -> set[int]:
    """The slow cores of a hybrid machine: as Intel lists them, else by their capacity; empty if all are alike."""
    listed = set(parse_cpu_list(read_text(root / "sys/devices/cpu_atom/cpus")))
    if listed:
        return listed & set(numbers)
    capacities = {n: read_text(root / f"sys/devices/system/cpu/cpu{n}/cpu_capacity") for n in numbers}
    known = {n: int(text) for n, text in capacities.items() if text.isdigit()}
    limit = max(known.values(), default=0) * _EFFICIENCY_SHARE
    return {n for n, capacity in known.items() if capacity < limit}
