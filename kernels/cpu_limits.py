"""How much of the machine this process may use: the affinity mask and the cgroup's CPU quota.

A container with ``--cpus=4`` on a machine with 64 sees 64 CPUs in the affinity mask. 64 threads then use up the
quota in a sixteenth of each period and all stand still for the rest: the quota has to be asked for.

Sources: sched_setaffinity(2); Linux, Documentation/admin-guide/cgroup-v2.rst (``cpu.max``) and
Documentation/scheduler/sched-bwc.rst (``cpu.cfs_quota_us``); proc(5) for the two files that tell where they lie.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .topology import Topology, read_text, read_topology

_ROOT = Path("/")


@dataclass(frozen=True)
class CpuLimits:
    """What the process may use."""

    affinity: frozenset[int]  # numbers of the CPUs it may run on
    quota: float | None  # CPU seconds per second; None if unlimited

    @property
    def is_throttled(self) -> bool:
        """Whether the quota is less than the CPUs of the mask: these are then shared with other work."""
        return self.quota is not None and self.quota < len(self.affinity)


def read_limits(root: Path = _ROOT) -> CpuLimits:
    """The limits now; cgroup files are read beneath *root*."""
    return CpuLimits(process_affinity(), read_quota(root))


@functools.cache
def process_affinity() -> frozenset[int]:
    """The CPUs that the process was allowed when this was first called, before any of its threads was pinned."""
    if hasattr(os, "sched_getaffinity"):
        # The main thread's mask: the calling thread's may have been narrowed, by pinning or by inheritance.
        return frozenset(os.sched_getaffinity(os.getpid()))
    return frozenset(range(os.cpu_count() or 1))


def default_thread_count(limits: CpuLimits | None = None, topology: Topology | None = None) -> int:
    """Threads to use when nobody says how many: physical cores within mask and quota, at least 1.

    SMT siblings add nothing to kernels that already fill the vector units or wait for memory. On a hybrid machine
    only the fast cores count: work is cut into equal pieces, and all would wait for the slow cores. The quota
    is rounded down. ``OMP_NUM_THREADS`` is not asked: it speaks to all libraries of a process, often with 1.
    """
    limits = limits or read_limits()
    allowed = (topology or read_topology()).among(limits.affinity)
    fast = [cpu for cpu in allowed if not cpu.is_efficient] or allowed
    num_cores = len({cpu.core for cpu in fast}) or len(limits.affinity)
    if limits.quota is not None:
        num_cores = min(num_cores, int(limits.quota))
    return max(num_cores, 1)


def read_quota(root: Path = _ROOT) -> float | None:
    """CPUs that the cgroup and its ancestors allow, the strictest of them; None without a limit."""
    quotas = [_directory_quota(directory) for directory in _cgroup_directories(root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _directory_quota(directory: Path) -> float | None:
    """The quota that one cgroup sets, by version 2 (``max 100000``) or version 1 (two files, -1: unlimited)."""
    words = read_text(directory / "cpu.max").split() or [
        read_text(directory / "cpu.cfs_quota_us"),
        read_text(directory / "cpu.cfs_period_us"),
    ]
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])


def _cgroup_directories(root: Path) -> Iterator[Path]:
    """The directories of the process's cgroup and all its ancestors, for each hierarchy that limits CPU time."""
    mounts = list(_cgroup_mounts(root))
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")  # "0::/path" is the one line of version 2
        controllers, _, path = rest.partition(":")
        is_v1 = "cpu" in controllers.split(",")
        if controllers and not is_v1:
            continue
        for mount_root, mount_point, mount_is_v1 in mounts:
            if mount_is_v1 == is_v1:
                yield from _up_to_mount(root, mount_point, _below(path, mount_root))


def _cgroup_mounts(root: Path) -> Iterator[tuple[str, str, bool]]:
    """(root within the hierarchy, mount point, is version 1) of each mounted hierarchy that may limit CPU time."""
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        mount, _, filesystem = line.partition(" - ")
        fields, kind = mount.split(), filesystem.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        is_v1 = kind[0] == "cgroup" and "cpu" in kind[2].split(",")
        if is_v1 or kind[0] == "cgroup2":
            yield fields[3], fields[4], is_v1


def _below(path: str, mount_root: str) -> PurePosixPath:
    """The process's cgroup relative to the part of the hierarchy that is mounted.

    A container's own cgroup is often all that is mounted, while its path is told from the host's root, or begins
    with ``/..`` where it lies outside of the namespace: the mount point itself is then the place to look.
    """
    cgroup = PurePosixPath(path)
    if ".." in cgroup.parts or not cgroup.is_relative_to(mount_root):
        return PurePosixPath()
    return cgroup.relative_to(mount_root)


def _up_to_mount(root: Path, mount_point: str, cgroup: PurePosixPath) -> Iterator[Path]:
    base = root / mount_point.lstrip("/")
    for part in (cgroup, *cgroup.parents):
        yield base / part
