"""What /sys and /proc tell of caches, memory and huge pages. Nothing here raises, and nothing imports numba.

Sources: Linux, Documentation/ABI/testing/sysfs-devices-system-cpu (cache), Documentation/admin-guide/mm/transhuge.rst,
proc(5). What a file does not say is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .topology import Topology, read_text

_ROOT = Path("/")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Cache:
    """The caches of one level, kind and size."""

    level: int
    kind: str  # "data", "instruction" or "unified"
    num_bytes: int  # of each
    count: int


def read_caches(topology: Topology, root: Path = _ROOT) -> list[Cache]:
    """The caches of the online CPUs, by level; a hybrid machine has several sizes of one level."""
    holders: dict[tuple[int, str, int], set[str]] = {}
    for cpu in topology.cpus:
        for index in sorted((root / f"sys/devices/system/cpu/cpu{cpu.number}/cache").glob("index[0-9]*")):
            level, size = read_text(index / "level"), parse_size(read_text(index / "size"))
            if level.isdigit() and size:
                kind = read_text(index / "type").lower()
                shared = read_text(index / "shared_cpu_list") or str(cpu.number)
                holders.setdefault((int(level), kind, size), set()).add(shared)
    return [Cache(*key, len(shared)) for key, shared in sorted(holders.items())]


def parse_size(text: str) -> int:
    """Bytes of a size such as ``32768K``; 0 for what is none."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    return int(match[1]) * _UNITS[match[2]] if match else 0


def total_memory(root: Path = _ROOT) -> int | None:
    """Bytes of the machine's memory."""
    return _mem_total(root / "proc/meminfo")


def node_memory(node: int, root: Path = _ROOT) -> int | None:
    """Bytes of a NUMA node's memory."""
    return _mem_total(root / f"sys/devices/system/node/node{node}/meminfo")


def _mem_total(path: Path) -> int | None:
    match = re.search(r"\bMemTotal:\s+(\d+) kB", read_text(path))
    return int(match[1]) * 1024 if match else None


def transparent_hugepages(root: Path = _ROOT) -> dict[str, str]:
    """The chosen value of each setting there is: ``enabled``, ``defrag`` and ``shmem_enabled``."""
    directory = root / "sys/kernel/mm/transparent_hugepage"
    texts = {name: read_text(directory / name) for name in ("enabled", "defrag", "shmem_enabled")}
    found = {name: re.search(r"\[(.+?)\]", text) for name, text in texts.items()}
    return {name: match[1] for name, match in found.items() if match}
