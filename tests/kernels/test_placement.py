"""Threads and memory of an engine on machines made of files: nodes, quotas, more threads than there are CPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from densecore.kernels.cpu_limits import CpuLimits, read_quota
from densecore.kernels.placement import Placement, plan_placement
from densecore.kernels.topology import read_topology

from . import machines

NODE_0, NODE_1 = {0, 1, 2, 3, 8, 9, 10, 11}, {4, 5, 6, 7, 12, 13, 14, 15}
ALL = range(16)

Place = Callable[..., Placement]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A placement on a machine: the CPUs of the mask and the quota are given, the rest as for `plan_placement`."""

    def on(make: Callable[[Path], None], allowed=ALL, quota: float | None = None, **wanted) -> Placement:
        make(tmp_path)
        limits = CpuLimits(frozenset(allowed), quota)
        return plan_placement(**wanted, topology=read_topology(tmp_path), limits=limits)

    return on


def test_by_default_cores_of_all_nodes_and_memory_of_all(place: Place) -> None:
    placement = place(machines.two_sockets)
    assert placement.cpus == (0, 4, 2, 6, 1, 5, 3, 7)
    assert (placement.nodes, placement.reason, placement.problems) == ((0, 1), "", ())


@pytest.mark.parametrize(
    ("policy", "num_threads", "cpus"),
    [
        ("scatter", 0, (4, 6, 5, 7)),
        ("scatter", 2, (4, 6)),
        ("scatter", 6, (4, 6, 5, 7, 12, 14)),
        ("compact", 4, (4, 12, 5, 13)),
    ],
)
def test_on_a_node(place: Place, policy: str, num_threads: int, cpus: tuple) -> None:
    placement = place(machines.two_sockets, num_threads=num_threads, policy=policy, node=1)
    assert placement.cpus == cpus
    assert set(cpus) <= NODE_1
    assert (placement.nodes, placement.problems) == ((1,), ())


def test_on_a_node_without_pinning_threads_stay_on_the_node(place: Place) -> None:
    placement = place(machines.two_sockets, num_threads=3, policy="off", node=0)
    assert placement.masks == (frozenset(NODE_0),) * 3
    assert (placement.cpus, placement.nodes, placement.reason) == ((), (0,), "pinning is off")


def test_without_pinning_threads_run_anywhere(place: Place) -> None:
    placement = place(machines.two_sockets, policy="off")
    assert (placement.masks, placement.num_threads, placement.nodes) == ((), 8, (0, 1))


def test_memory_comes_from_the_nodes_of_the_threads_alone(place: Place) -> None:
    assert place(machines.two_sockets, num_threads=4, policy="compact").nodes == ()
    assert place(machines.two_sockets, num_threads=10, policy="compact").nodes == (0, 1)


def test_a_node_within_the_affinity_mask(place: Place) -> None:
    placement = place(machines.two_sockets, allowed=(0, 1, 5, 13), node=1)
    assert (placement.num_threads, placement.cpus) == (1, (5,))


@pytest.mark.parametrize(
    ("make", "allowed", "node", "said"),
    [
        (machines.two_sockets, ALL, 2, "NUMA node 2 was asked for, but the nodes with CPUs here are 0, 1"),
        (machines.single, (0,), 1, "NUMA node 1 was asked for, but the nodes with CPUs here are 0"),
        (machines.two_sockets, (0, 1), 1, "may use no CPU of NUMA node 1"),
    ],
    ids=["two nodes", "one node", "outside of the mask"],
)
def test_a_missing_node_is_told_and_all_are_used(place: Place, make, allowed, node: int, said: str) -> None:
    placement = place(make, allowed=allowed, node=node)
    automatic = place(make, allowed=allowed)
    [problem] = placement.problems
    assert said in problem
    assert (placement.masks, placement.nodes) == (automatic.masks, automatic.nodes)


def test_a_node_that_the_mask_is_already_on_still_gives_the_memory(place: Place) -> None:
    placement = place(machines.two_sockets, allowed=NODE_1, node=1)
    assert (placement.num_threads, placement.nodes, placement.problems) == (4, (1,), ())
    assert place(machines.two_sockets, allowed=NODE_1).nodes == ()


def test_the_only_node_is_no_restriction(place: Place) -> None:
    assert place(machines.hybrid, allowed=range(8), node=0) == place(machines.hybrid, allowed=range(8))


@pytest.mark.parametrize(
    ("make", "allowed", "wanted", "node", "count"),
    [
        (machines.two_sockets, ALL, 17, -1, 16),
        (machines.two_sockets, ALL, 9, 1, 8),
        (machines.two_sockets, (0, 8), 4, -1, 2),
        (machines.hybrid, range(8), 4096, -1, 8),
        (machines.with_holes, (0, 1, 4, 6, 7), 6, -1, 5),
    ],
    ids=["machine", "node", "mask", "hybrid", "offline CPUs"],
)
def test_more_threads_than_cpus_become_as_many(place: Place, make, allowed, wanted: int, node: int, count: int) -> None:
    placement = place(make, allowed=allowed, num_threads=wanted, node=node)
    assert placement.num_threads == count == len(set(placement.cpus))
    [problem] = placement.problems
    assert f"{wanted} threads were asked for, but they would have {count} CPUs" in problem


def test_pool_bounds_the_threads(place: Place) -> None:
    asked = place(machines.two_sockets, num_threads=6, pool_size=2)
    assert asked.num_threads == 2
    assert "NUMBA_NUM_THREADS=6" in asked.problems[0]
    default = place(machines.two_sockets, pool_size=2)
    assert (default.num_threads, default.problems) == (2, ())


def test_under_a_quota_no_thread_has_a_cpu_of_its_own(place: Place) -> None:
    placement = place(machines.two_sockets, quota=3.5)
    assert (placement.num_threads, placement.masks, placement.problems) == (3, (), ())
    assert placement.reason == "a cgroup quota of 3.5 CPUs"
    bound = place(machines.two_sockets, quota=3.5, node=1)
    assert bound.masks == (frozenset(NODE_1),) * 3


def test_more_threads_than_the_quota_are_told_but_kept(place: Place) -> None:
    placement = place(machines.two_sockets, quota=2.0, num_threads=8)
    assert placement.num_threads == 8
    assert "2 would be faster" in placement.problems[0]


@pytest.mark.parametrize("version", [1, 2])
def test_quota_of_either_cgroup_version_on_two_sockets(tmp_path: Path, version: int) -> None:
    machines.two_sockets(tmp_path)
    if version == 1:
        machines.write_cgroup_v1(tmp_path, "/docker/1", {"docker/1": (250000, 100000), "": (-1, 100000)})
    else:
        machines.write_cgroup_v2(tmp_path, "/docker/1", {"docker/1": "250000 100000", "": "max 100000"})
    limits = CpuLimits(frozenset(ALL), read_quota(tmp_path))
    placement = plan_placement(topology=read_topology(tmp_path), limits=limits)
    assert (limits.quota, placement.num_threads, placement.masks) == (2.5, 2, ())


def test_refuses_what_is_no_policy_and_no_number(place: Place) -> None:
    with pytest.raises(ValueError, match="pinning policy"):
        place(machines.single, policy="spread")
    with pytest.raises(ValueError, match="number of threads"):
        place(machines.single, num_threads=-1)
