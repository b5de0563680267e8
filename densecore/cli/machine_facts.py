"""What ``densecore env`` shows: the machine, what this process may use of it, and what DenseCore makes of that."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Any

import densecore
from densecore.cli.version import cpu_name, installed_version
from densecore.config import EngineConfig

__all__ = ["gather"]

PACKAGES = ("numba", "llvmlite", "numpy", "tbb")
ROOT = Path("/")


def gather(config: EngineConfig, root: Path = ROOT) -> dict[str, Any]:
    """All facts, by section, as JSON can hold them; unknown ones are None. /sys and /proc are read beneath `root`."""
    from densecore.kernels.cpu_limits import CpuLimits, process_affinity, read_quota
    from densecore.kernels.topology import read_topology

    topology, limits = read_topology(root), CpuLimits(process_affinity(), read_quota(root))
    return {
        "cpu": _cpu(root),
        "topology": _topology(topology, root),
        "limits": {"affinity": sorted(limits.affinity), "cgroup_quota": limits.quota},
        "threads": _threads(config, topology, limits),
        "memory": _memory(root),
        "compile_cache": _compile_cache(),
        "versions": {
            "densecore": densecore.__version__,
            "python": platform.python_version(),
            **{name: installed_version(name) for name in PACKAGES},
            "system": f"{platform.system()} {platform.release()}",
        },
    }


def _cpu(root: Path) -> dict[str, Any]:
    """Name, the compiler's name for it, and the features that code is compiled for."""
    import llvmlite.binding as llvm

    features = sorted(name for name, present in llvm.get_host_cpu_features().items() if present)
    return {
        "name": cpu_name(root / "proc/cpuinfo"),
        "architecture": platform.machine(),
        "compiled_for": llvm.get_host_cpu_name(),
        "instruction_set": _instruction_set(),
        "features": features,
    }


def _instruction_set() -> str:
    try:
        from densecore.kernels.simd_types import ISA
    except ImportError as error:  # DENSECORE_ISA names one that there is not
        return f"none ({error})"
    return ISA


def _topology(topology: Any, root: Path) -> dict[str, Any]:
    from densecore.kernels.memory_facts import node_memory, read_caches

    slow = {cpu.core for cpu in topology.cpus if cpu.is_efficient}
    return {
        "sockets": topology.num_packages,
        "cores": topology.num_cores,
        "efficiency_cores": len(slow),
        "cpus": len(topology.cpus),
        "has_smt": len(topology.cpus) > topology.num_cores,
        "nodes": [
            {"id": node, "cpus": sorted(cpus), "memory_bytes": node_memory(node, root)}
            for node, cpus in sorted(topology.nodes.items())
        ],
        "caches": [dataclasses.asdict(cache) for cache in read_caches(topology, root)],
    }


def _threads(config: EngineConfig, topology: Any, limits: Any) -> dict[str, Any]:
    """What an engine with these settings would do here."""
    from densecore.kernels import threads

    placement = threads.plan_placement(
        config.threads,
        config.pinning,
        config.numa_node_id,
        topology=topology,
        limits=limits,
        pool_size=threads.pool_size(),
    )
    by_number = {cpu.number: cpu for cpu in topology.cpus}
    plan = [(worker, by_number[number]) for worker, number in enumerate(placement.cpus)]
    return {
        "layer": _threading_layer(),
        "default": threads.default_thread_count(limits, topology),
        "effective": placement.num_threads,
        "pool_size": threads.pool_size(),
        "pinning": config.pinning,
        "numa_node_id": config.numa_node_id,
        "workers": [{"worker": i, "cpu": cpu.number, "core": cpu.core, "node": cpu.node} for i, cpu in plan],
        "worker_cpus": None if placement.cpus or not placement.masks else sorted(placement.masks[0]),
        "not_pinned_because": placement.reason or None,
        "memory_nodes": list(placement.nodes),
        "problems": list(placement.problems),
    }


def _threading_layer() -> str:
    from densecore.kernels import threads

    try:
        return threads.start_threading_layer()
    except ValueError as error:  # NUMBA_THREADING_LAYER names one that cannot be loaded
        return f"none ({' '.join(str(error).split())})"


def _memory(root: Path) -> dict[str, Any]:
    from densecore.kernels.memory_facts import total_memory, transparent_hugepages

    return {"total_bytes": total_memory(root), "transparent_hugepages": transparent_hugepages(root) or None}


def _compile_cache() -> dict[str, Any]:
    """Where compiled kernels lie: those of this version and CPU, and the bytes of all."""
    from densecore.kernels.cache import cache_directory

    directory = cache_directory()
    if directory is None:
        return {"directory": None, "kernels": 0, "bytes": 0, "bytes_of_all_versions": 0}
    sizes = _file_sizes(directory)
    everything = sum(sum(_file_sizes(other).values()) for other in directory.parent.iterdir())
    return {
        "directory": str(directory),
        "kernels": sum(path.suffix == ".kernel" for path in sizes),
        "bytes": sum(sizes.values()),
        "bytes_of_all_versions": everything,
    }


def _file_sizes(directory: Path) -> dict[Path, int]:
    """Size of each file in a directory; those that go away meanwhile are left out."""
    sizes = {}
    try:
        for path in directory.iterdir():
            if path.is_file():
                sizes[path] = path.stat().st_size
    except OSError:
        pass
    return sizes
