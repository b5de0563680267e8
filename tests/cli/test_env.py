"""``densecore env`` on machines made of files, on a machine without any, and on this one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest

import densecore
from densecore.cli import machine_facts
from densecore.cli.env import as_text
from densecore.config import EngineConfig
from densecore.kernels import cpu_limits, threads
from densecore.kernels.memory_facts import parse_size
from densecore.kernels.simd_types import ISA
from tests.kernels import machines

from .conftest import Cli

Facts = Callable[..., dict[str, Any]]


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Facts:
    """The facts of a machine made of files, for a process that may use `affinity`."""

    def gather(*makes: Callable[[Path], None], affinity=range(16), **settings) -> dict[str, Any]:
        for make in makes:
            make(tmp_path)
        monkeypatch.setattr(cpu_limits, "process_affinity", lambda: frozenset(affinity))
        monkeypatch.setattr(threads, "pool_size", lambda: len(affinity))
        return machine_facts.gather(EngineConfig(**settings), tmp_path)

    return gather


def text_of(facts: dict[str, Any]) -> dict[str, list[str]]:
    """Values of the report by name."""
    rows: dict[str, list[str]] = {}
    for line in as_text(facts):
        if line.startswith("  "):
            rows.setdefault(line[2:18].strip(), []).append(line[18:].strip())
    return rows


def huge_pages(root: Path) -> None:
    machines.write(root / "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
    machines.write(root / "sys/kernel/mm/transparent_hugepage/defrag", "always defer [defer+madvise] madvise never")
    machines.write(root / "proc/meminfo", "MemTotal:        8192 kB\nMemFree:  1 kB")
    machines.write(root / "proc/cpuinfo", "processor\t: 0\nmodel name\t: Example 9000")


def quota_v2(root: Path) -> None:
    machines.write_cgroup_v2(root, "/", {"": "350000 100000"})


def quota_v1(root: Path) -> None:
    machines.write_cgroup_v1(root, "/", {"": (150000, 100000)})


def test_two_sockets(facts: Facts) -> None:
    found = facts(machines.two_sockets, huge_pages)
    assert found["cpu"]["name"] == "Example 9000"
    assert found["topology"] == {
        "sockets": 2,
        "cores": 8,
        "efficiency_cores": 0,
        "cpus": 16,
        "has_smt": True,
        "nodes": [
            {"id": 0, "cpus": [0, 1, 2, 3, 8, 9, 10, 11], "memory_bytes": 4 << 20},
            {"id": 1, "cpus": [4, 5, 6, 7, 12, 13, 14, 15], "memory_bytes": 4 << 20},
        ],
        "caches": [
            {"level": 1, "kind": "data", "num_bytes": 32 << 10, "count": 8},
            {"level": 1, "kind": "instruction", "num_bytes": 32 << 10, "count": 8},
            {"level": 2, "kind": "unified", "num_bytes": 1 << 20, "count": 8},
            {"level": 3, "kind": "unified", "num_bytes": 16 << 20, "count": 4},
        ],
    }
    assert found["memory"] == {
        "total_bytes": 8 << 20,
        "transparent_hugepages": {"enabled": "madvise", "defrag": "defer+madvise"},
    }
    assert [worker["cpu"] for worker in found["threads"]["workers"]] == [0, 4, 2, 6, 1, 5, 3, 7]
    rows = text_of(found)
    assert rows["NUMA node 1"] == ["CPUs 4-7,12-15, 4.0 MiB"]
    assert rows["worker 1"] == ["CPU 4 (core 4, node 1)"]
    assert rows["placed"] == ["in turn from NUMA nodes 0-1"]
    assert rows["cache L1d"] == ["8 x 32.0 KiB"]
    assert rows["CPUs"] == ["16 (SMT: cores have several)"]


def test_a_node_and_its_memory(facts: Facts) -> None:
    found = facts(machines.two_sockets, numa_node_id=1, pinning="compact", threads=3)
    assert found["threads"]["workers"] == [
        {"worker": 0, "cpu": 4, "core": 4, "node": 1},
        {"worker": 1, "cpu": 12, "core": 4, "node": 1},
        {"worker": 2, "cpu": 5, "core": 5, "node": 1},
    ]
    assert text_of(found)["placed"] == ["from NUMA node 1"]


def test_what_cannot_be_had(facts: Facts) -> None:
    found = facts(machines.single, affinity=(0,), threads=4, numa_node_id=3)
    assert found["threads"]["effective"] == 1
    said = text_of(found)["but"]
    assert len(said) == 2
    assert "NUMA node 3" in said[0]
    assert "4 threads" in said[1]


def test_hybrid(facts: Facts) -> None:
    found = facts(machines.hybrid, affinity=range(8))
    assert (found["topology"]["efficiency_cores"], found["threads"]["default"]) == (4, 2)
    rows = text_of(found)
    assert rows["cores"] == ["6, 4 of them efficiency cores"]
    assert rows["cache L1d"] == ["2 x 32.0 KiB", "4 x 48.0 KiB"]


@pytest.mark.parametrize(("quota", "number", "count"), [(quota_v1, 1.5, 1), (quota_v2, 3.5, 3)], ids=["v1", "v2"])
def test_quota(facts: Facts, quota: Callable, number: float, count: int) -> None:
    found = facts(machines.two_sockets, quota)
    assert found["limits"]["cgroup_quota"] == number
    assert (found["threads"]["default"], found["threads"]["workers"]) == (count, [])
    rows = text_of(found)
    assert rows["cgroup quota"] == [f"{number} CPUs"]
    assert rows["all workers"] == [f"any CPU: a cgroup quota of {number} CPUs"]
    bound = facts(machines.two_sockets, quota, numa_node_id=0)
    assert text_of(bound)["all workers"] == [f"CPUs 0-3,8-11: a cgroup quota of {number} CPUs"]


def test_pinning_off(facts: Facts) -> None:
    assert text_of(facts(machines.two_sockets, pinning="off"))["all workers"] == ["any CPU: pinning is off"]


def test_without_any_of_the_files(facts: Facts) -> None:
    found = facts(affinity=(0,))
    json.dumps(found)
    assert (found["topology"]["sockets"], found["topology"]["caches"]) == (1, [])
    assert found["limits"] == {"affinity": [0], "cgroup_quota": None}
    rows = text_of(found)
    assert rows["huge pages"] == ["unknown"]
    assert rows["size"][0] == "unknown"
    assert rows["cgroup quota"] == ["none"]


def test_json_of_this_machine(cli: Cli) -> None:
    status, out, err = cli("env", "--json", "--pinning", "off")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["cpu"]["instruction_set"] == ISA
    assert found["versions"]["densecore"] == densecore.__version__
    assert found["versions"]["numba"] == numba.__version__
    assert found["limits"]["affinity"] == sorted(cpu_limits.process_affinity())
    assert found["threads"]["layer"] == threads.threading_layer()
    assert found["threads"]["default"] == threads.default_thread_count()
    assert found["threads"]["workers"] == []


def test_text_of_this_machine(cli: Cli) -> None:
    status, out, err = cli("env", "--threads", "1")
    assert (status, err) == (0, "")
    titles = [line for line in out.splitlines() if not line.startswith("  ")]
    assert titles == ["cpu", "topology", "limits", "threads", "memory", "compiled kernels", "versions"]
    assert f"  instruction set   {ISA}\n" in out


def test_compile_cache(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "kernels" / ("0" * 32)
    directory.mkdir(parents=True)
    (directory / "a.kernel").write_bytes(bytes(1000))
    (directory.parent / "old").mkdir()
    (directory.parent / "old" / "b.kernel").write_bytes(bytes(500))
    monkeypatch.setattr("densecore.kernels.cache.cache_directory", lambda: directory)
    found = json.loads(cli("env", "--json").out)["compile_cache"]
    assert found == {"directory": str(directory), "kernels": 1, "bytes": 1000, "bytes_of_all_versions": 1500}
    monkeypatch.setattr("densecore.kernels.cache.cache_directory", lambda: None)
    assert "none: nothing is kept" in cli("env").out


def test_wrong_settings_are_wrong_usage(cli: Cli) -> None:
    status, _, err = cli("env", "--numa-node", "-2")
    assert status == 2
    assert "numa_node_id must be an integer from -1" in err


@pytest.mark.parametrize(
    ("text", "size"), [("32768K", 32 << 20), ("1M", 1 << 20), ("512", 512), ("", 0), ("x", 0), ("1T", 0)], ids=repr
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size
