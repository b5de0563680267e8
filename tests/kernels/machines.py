"""Machines made of files: /sys, /proc and cgroup trees as Linux would show them, written beneath a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FakeCpu:
    """What /sys says of one CPU; the lists as Linux writes them."""

    number: int
    siblings: str
    package: int = 0
    node: int = 0
    l2: str = ""
    l3: str = ""
    capacity: int | None = None


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def write_machine(root: Path, online: str, cpus: Iterable[FakeCpu]) -> None:
    """The tree /sys/devices/system of a machine."""
    system = root / "sys/devices/system"
    write(system / "cpu/online", online)
    nodes: dict[int, list[int]] = {}
    for cpu in cpus:
        directory = system / f"cpu/cpu{cpu.number}"
        write(directory / "topology/core_cpus_list", cpu.siblings)
        write(directory / "topology/physical_package_id", cpu.package)
        _write_cache(directory / "cache/index0", 1, "Data", "48K" if cpu.l2 else "32K", cpu.siblings)
        _write_cache(directory / "cache/index1", 1, "Instruction", "32K", cpu.siblings)
        _write_cache(directory / "cache/index2", 2, "Unified", "1024K", cpu.l2 or cpu.siblings)
        if cpu.l3:
            _write_cache(directory / "cache/index3", 3, "Unified", "16384K", cpu.l3)
        if cpu.capacity is not None:
            write(directory / "cpu_capacity", cpu.capacity)
        nodes.setdefault(cpu.node, []).append(cpu.number)
    for node, numbers in nodes.items():
        write(system / f"node/node{node}/cpulist", ",".join(map(str, numbers)))
        write(system / f"node/node{node}/meminfo", f"\nNode {node} MemTotal:       4096 kB\nNode {node} MemFree: 1 kB")


def _write_cache(directory: Path, level: int, kind: str, size: str, shared: str) -> None:
    write(directory / "level", level)
    write(directory / "size", size)
    write(directory / "type", kind)
    write(directory / "shared_cpu_list", shared)


def two_sockets(root: Path) -> None:
    """Two packages of four cores; CPU c and c + 8 are siblings; each package a node with two L3 caches."""
    groups = {0: "0-1,8-9", 1: "2-3,10-11", 2: "4-5,12-13", 3: "6-7,14-15"}
    cpus = []
    for number in range(16):
        core = number % 8
        socket = core // 4
        cpus.append(FakeCpu(number, f"{core},{core + 8}", socket, socket, l3=groups[core // 2]))
    write_machine(root, "0-15", cpus)


def hybrid(root: Path) -> None:
    """Two fast cores with siblings (0-3), four slow ones that share an L2 (4-7); all share the L3."""
    fast = [FakeCpu(n, "0-1" if n < 2 else "2-3", l3="0-7") for n in range(4)]
    slow = [FakeCpu(n, str(n), l2="4-7", l3="0-7") for n in range(4, 8)]
    write_machine(root, "0-7", fast + slow)
    write(root / "sys/devices/cpu_core/cpus", "0-3")
    write(root / "sys/devices/cpu_atom/cpus", "4-7")


def big_little(root: Path) -> None:
    """Four little cores (0-3) and four big ones (4-7), told apart by capacity alone; no L3, no package."""
    cpus = [FakeCpu(n, str(n), -1, capacity=400 if n < 4 else 1024 - n) for n in range(8)]
    write_machine(root, "0-7", cpus)


def with_holes(root: Path) -> None:
    """Four cores with siblings of which CPUs 2, 3 and 5 are offline; the siblings' lists name online CPUs only."""
    siblings = {0: "0-1", 1: "0-1", 4: "4", 6: "6-7", 7: "6-7"}
    write_machine(root, "0-1,4,6-7", [FakeCpu(n, text, l3="0-1,4,6-7") for n, text in siblings.items()])


def single(root: Path) -> None:
    write_machine(root, "0", [FakeCpu(0, "0", l3="0")])


def write_cgroup_v2(root: Path, cgroup: str, limits: Mapping[str, str], mount_root: str = "/") -> None:
    """A unified hierarchy; *limits* gives ``cpu.max`` by directory below the mount point."""
    write(root / "proc/self/cgroup", f"0::{cgroup}")
    line = f"29 23 0:26 {mount_root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
    write(root / "proc/self/mountinfo", f"23 28 0:21 / /sys rw - sysfs sysfs rw\n{line}")
    for directory, text in limits.items():
        write(root / f"sys/fs/cgroup/{directory}/cpu.max", text)


def write_cgroup_v1(root: Path, cgroup: str, limits: Mapping[str, tuple[int, int]], mount_root: str = "/") -> None:
    """Hierarchies of version 1, and an empty one of version 2; *limits* gives (quota, period) in microseconds."""
    write(root / "proc/self/cgroup", f"5:memory:{cgroup}\n4:cpu,cpuacct:{cgroup}\n1:name=systemd:/x\n0::/x")
    mounts = [
        "30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
        f"31 25 0:27 {mount_root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
        f"33 25 0:29 {mount_root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
    ]
    write(root / "proc/self/mountinfo", "\n".join(mounts))
    for directory, (quota, period) in limits.items():
        path = root / "sys/fs/cgroup/cpu,cpuacct" / directory
        write(path / "cpu.cfs_quota_us", quota)
        write(path / "cpu.cfs_period_us", period)
