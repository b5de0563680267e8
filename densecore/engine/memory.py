"""How much memory there is for the KV cache: of the machine, and of the cgroup that the process lives in."""

from __future__ import annotations

from pathlib import Path

import psutil

__all__ = ["available_memory"]

# (limit, usage) below /sys/fs/cgroup, for cgroup version 2 and 1
_CGROUP_FILES = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def _cgroup_headroom(root: Path) -> int | None:
    """Bytes left in the cgroup, None without a limit."""
    for limit_name, usage_name in _CGROUP_FILES:
        try:
            limit, usage = (root / limit_name).read_text().strip(), (root / usage_name).read_text().strip()
        except OSError:
            continue
        if limit.isdigit() and usage.isdigit():
            return max(int(limit) - int(usage), 0)
    return None


def available_memory(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can be taken without swapping or hitting the cgroup's limit."""
    machine = psutil.virtual_memory().available
    headroom = _cgroup_headroom(cgroup_root)
    return machine if headroom is None else min(machine, headroom)
