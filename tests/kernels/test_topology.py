"""Topology, CPU limits and pinning plans on machines made of files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecore.kernels.cpu_limits import CpuLimits, default_thread_count, read_limits, read_quota
from densecore.kernels.pinning_plan import plan_pinning
from densecore.kernels.topology import Topology, parse_cpu_list, read_topology

from . import machines


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[Callable[[Path], None]], Topology]:
    def build(make: Callable[[Path], None]) -> Topology:
        make(tmp_path)
        return read_topology(tmp_path)

    return build


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-3,8,10-11\n", [0, 1, 2, 3, 8, 10, 11]),
        ("0", [0]),
        ("5,1-2", [1, 2, 5]),
        ("", []),
        ("\n", []),
        ("none", []),
        ("3-1", []),
    ],
    ids=repr,
)
def test_parse_cpu_list(text: str, expected: list[int]) -> None:
    assert parse_cpu_list(text) == expected


# -------------------------------------------------------------------------------------------- topology


def test_two_sockets(machine: Callable) -> None:
    topology = machine(machines.two_sockets)
    assert (topology.num_packages, topology.num_cores, len(topology.cpus)) == (2, 8, 16)
    assert not topology.is_hybrid
    assert topology.nodes == {0: {0, 1, 2, 3, 8, 9, 10, 11}, 1: {4, 5, 6, 7, 12, 13, 14, 15}}
    cpu = topology.cpus[13]
    assert (cpu.number, cpu.core, cpu.package, cpu.node, cpu.l2, cpu.l3) == (13, 5, 1, 1, 5, 4)


@pytest.mark.parametrize(
    ("make", "slow"),
    [(machines.hybrid, [4, 5, 6, 7]), (machines.big_little, [0, 1, 2, 3]), (machines.two_sockets, [])],
    ids=["listed by Intel", "by capacity", "all alike"],
)
def test_efficiency_cores(machine: Callable, make: Callable, slow: list[int]) -> None:
    topology = machine(make)
    assert [cpu.number for cpu in topology.cpus if cpu.is_efficient] == slow
    assert topology.is_hybrid == bool(slow)


def test_offline_cpus_are_left_out(machine: Callable) -> None:
    topology = machine(machines.with_holes)
    assert [cpu.number for cpu in topology.cpus] == [0, 1, 4, 6, 7]
    assert topology.num_cores == 3


def test_without_sys_every_cpu_is_a_core(tmp_path: Path) -> None:
    topology = read_topology(tmp_path)
    assert len(topology.cpus) == topology.num_cores == os.cpu_count()
    assert (topology.num_packages, list(topology.nodes), topology.is_hybrid) == (1, [0], False)


def test_this_machine() -> None:
    topology = read_topology()
    assert 1 <= topology.num_cores <= len(topology.cpus)
    assert 1 <= default_thread_count() <= topology.num_cores


def test_topology_and_limits_do_not_import_numba() -> None:
    code = (
        "import sys, densecore.kernels.placement as p, densecore.kernels.numa; p.plan_placement();"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ----------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("cgroup", "limits", "mount_root", "expected"),
    [
        ("/", {"": "max 100000"}, "/", None),
        ("/", {}, "/", None),
        ("/", {"": "150000 100000"}, "/", 1.5),
        ("/a/b", {"a/b": "max 100000", "a": "400000 100000", "": "max 100000"}, "/", 4.0),
        ("/a/b", {"a/b": "200000 50000", "a": "100000 50000"}, "/", 2.0),
        ("/docker/1", {"": "50000 100000"}, "/docker/1", 0.5),
        ("/../other", {"": "300000 100000"}, "/", 3.0),
        ("/", {"": "nonsense"}, "/", None),
        ("/", {"": "100000 0"}, "/", None),
    ],
    ids=[
        "unlimited",
        "root",
        "fraction",
        "parent",
        "strictest",
        "mounted alone",
        "outside namespace",
        "bad",
        "period 0",
    ],
)
def test_quota_of_cgroup_v2(tmp_path: Path, cgroup: str, limits: dict, mount_root: str, expected: float | None) -> None:
    machines.write_cgroup_v2(tmp_path, cgroup, limits, mount_root)
    assert read_quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("cgroup", "limits", "mount_root", "expected"),
    [
        ("/", {"": (-1, 100000)}, "/", None),
        ("/docker/1", {"docker/1": (250000, 100000), "": (-1, 100000)}, "/", 2.5),
        ("/docker/1", {"": (250000, 100000)}, "/docker/1", 2.5),
    ],
    ids=["unlimited", "own", "mounted alone"],
)
def test_quota_of_cgroup_v1(tmp_path: Path, cgroup: str, limits: dict, mount_root: str, expected: float | None) -> None:
    machines.write_cgroup_v1(tmp_path, cgroup, limits, mount_root)
    assert read_quota(tmp_path) == expected


def test_no_cgroups(tmp_path: Path) -> None:
    assert read_quota(tmp_path) is None
    assert read_limits(tmp_path).affinity


@pytest.mark.parametrize(
    ("make", "allowed", "quota", "expected"),
    [
        (machines.two_sockets, range(16), None, 8),
        (machines.two_sockets, range(16), 3.9, 3),
        (machines.two_sockets, range(16), 0.5, 1),
        (machines.two_sockets, range(16), 64.0, 8),
        (machines.two_sockets, (0, 8), None, 1),
        (machines.two_sockets, (0, 1, 9), None, 2),
        (machines.hybrid, range(8), None, 2),
        (machines.hybrid, (4, 5, 6), None, 3),
        (machines.big_little, range(8), None, 4),
        (machines.with_holes, range(8), None, 3),
        (machines.single, (0,), None, 1),
        (machines.single, (7, 8), None, 2),
    ],
    ids=str,
)
def test_default_thread_count(
    machine: Callable, make: Callable, allowed: tuple, quota: float | None, expected: int
) -> None:
    limits = CpuLimits(frozenset(allowed), quota)
    assert default_thread_count(limits, machine(make)) == expected


def test_throttled() -> None:
    assert CpuLimits(frozenset(range(8)), 4.0).is_throttled
    assert not CpuLimits(frozenset(range(8)), 8.0).is_throttled
    assert not CpuLimits(frozenset(range(8)), None).is_throttled


# ------------------------------------------------------------------------------------------------ plans

SIXTEEN, EIGHT = range(16), range(8)
PLANS = [
    (machines.two_sockets, "scatter", 8, SIXTEEN, [0, 4, 2, 6, 1, 5, 3, 7]),
    (machines.two_sockets, "scatter", 10, SIXTEEN, [0, 4, 2, 6, 1, 5, 3, 7, 8, 12]),
    (machines.two_sockets, "compact", 6, SIXTEEN, [0, 8, 1, 9, 2, 10]),
    (machines.two_sockets, "scatter", 3, (12, 5, 4), [4, 5, 12]),
    (machines.two_sockets, "compact", 3, (12, 5, 4), [4, 12, 5]),
    (machines.hybrid, "scatter", 7, EIGHT, [0, 2, 4, 5, 6, 7, 1]),
    (machines.hybrid, "compact", 5, EIGHT, [0, 1, 2, 3, 4]),
    (machines.big_little, "scatter", 5, EIGHT, [4, 5, 6, 7, 0]),
    (machines.with_holes, "scatter", 5, EIGHT, [0, 4, 6, 1, 7]),
    (machines.with_holes, "compact", 5, EIGHT, [0, 1, 4, 6, 7]),
    (machines.single, "scatter", 2, EIGHT, [0, 0]),
    (machines.single, "compact", 1, (3,), []),
    (machines.two_sockets, "off", 4, SIXTEEN, []),
]


@pytest.mark.parametrize(("make", "policy", "num_threads", "allowed", "expected"), PLANS, ids=str)
def test_plan(
    machine: Callable, make: Callable, policy: str, num_threads: int, allowed: tuple, expected: list[int]
) -> None:
    assert plan_pinning(policy, num_threads, machine(make), allowed) == expected


@pytest.mark.parametrize(("policy", "num_threads"), [("spread", 1), ("scatter", 0), ("off", -1)])
def test_plan_refuses(machine: Callable, policy: str, num_threads: int) -> None:
    with pytest.raises(ValueError, match=r"pinning policy|number of threads"):
        plan_pinning(policy, num_threads, machine(machines.single), {0})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Topology:
    root = tmp_path_factory.mktemp("machine")
    machines.two_sockets(root)
    return read_topology(root)


@given(
    policy=st.sampled_from(["scatter", "compact"]),
    num_threads=st.integers(1, 20),
    allowed=st.sets(st.integers(0, 17), min_size=1),
)
def test_plans_use_each_allowed_cpu_before_any_twice(
    large: Topology, policy: str, num_threads: int, allowed: set[int]
) -> None:
    usable = allowed & set(range(16))
    plan = plan_pinning(policy, num_threads, large, allowed)
    assert set(plan) <= usable
    assert len(plan) == (num_threads if usable else 0)
    assert len(set(plan)) == min(num_threads, len(usable))
