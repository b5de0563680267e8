"""Engines of different settings take turns on one kernel thread; threads and memory that cannot be had are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from densecore import DenseCore
from densecore.config import EngineConfig
from densecore.data import builtin_model_path
from densecore.engine import workers
from densecore.engine.kernel_thread import kernel_thread
from densecore.engine.workers import WorkerThreads
from densecore.kernels import numa, placement, threads
from densecore.kernels.topology import Cpu, Topology
from tests.kernels.test_numa import INTERLEAVE, PREFERRED, policy, real

TURNS = """
import json, os
import numba
from densecore import DenseCore
from densecore.engine import workers
from densecore.engine.kernel_thread import kernel_thread
from densecore.kernels import threads

binds = []
bind = threads.bind_worker_threads
threads.bind_worker_threads = lambda masks: binds.append(len(masks)) or bind(masks)

def pool():
    # The CPUs of each worker, as the kernel thread finds the pool after a step.
    return [sorted(os.sched_getaffinity(thread)) for thread in threads.worker_thread_ids()]

def turn(model):
    text = model.generate("import os", max_tokens=4, temperature=0.0)
    return [text, kernel_thread.call(numba.get_num_threads), kernel_thread.call(pool)]

path = {path!r}
settings = dict(
    pinned=dict(threads=2), compact=dict(threads=1, pinning="compact"), free=dict(threads=2, pinning="off"),
    pinned_too=dict(threads=2),
)
models = {{name: DenseCore(path, max_model_len=64, **options) for name, options in settings.items()}}
result = {{"main": len(os.sched_getaffinity(os.getpid())), "turns": []}}
for name in ("pinned", "compact", "free", "compact", "pinned", "pinned_too", "pinned"):
    result["turns"].append([name, *turn(models[name])])
result["main after"] = len(os.sched_getaffinity(os.getpid()))
result["binds"] = list(binds)

# All at once: steps of the engines alternate, and each counts the threads that it runs on.
seen = {{name: set() for name in models}}
for name, model in models.items():
    runner = model._engine.runner
    def outputs(*arguments, name=name, original=runner.model.outputs, **options):
        seen[name].add((arguments[2], numba.get_num_threads()))
        return original(*arguments, **options)
    runner.model.outputs = outputs
streams = [model.stream("def f(x):", max_tokens=24, temperature=0.0) for model in models.values()]
result["together"] = ["".join(stream) for stream in streams]
result["seen"] = {{name: sorted(pairs) for name, pairs in seen.items()}}
result["switches"] = len(binds) - len(result["binds"])
print(json.dumps(result))
"""

two_cpus = pytest.mark.skipif(
    not sys.platform.startswith("linux") or len(threads.process_affinity()) < 2 or threads.read_limits().is_throttled,
    reason="pins threads on Linux, on two CPUs without a quota",
)


@two_cpus
def test_each_engine_has_its_threads_where_it_wants_them() -> None:
    code = TURNS.format(path=str(builtin_model_path()))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    cpus = sorted(threads.process_affinity())
    scattered = [[cpu] for cpu in threads.plan_pinning("scatter", 2, threads.read_topology(), cpus)]
    compact = [[cpu] for cpu in threads.plan_pinning("compact", 1, threads.read_topology(), cpus)]
    expected = {"pinned": (2, scattered), "compact": (1, compact), "free": (2, [cpus, cpus])}
    expected["pinned_too"] = expected["pinned"]
    texts = set()
    for name, text, num_threads, masks in result["turns"]:
        texts.add(text)
        assert (num_threads, masks) == expected[name], name
    assert len(texts) == 1, "the same text, whatever the threads"
    assert result["binds"] == [2, 1, 1, 2], "an engine of the same setting changes nothing"
    assert result["main"] == result["main after"] == len(cpus), "the user's thread stays free"

    assert len(set(result["together"])) == 1
    counts = {name: [[count, count]] for name, (count, _) in expected.items()}
    assert result["seen"] == counts
    assert result["switches"] > 4, "the engines did take turns"


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been warned of, and the pool is told again."""
    monkeypatch.setattr(workers, "_told", set())
    monkeypatch.setattr(workers, "_applied", None)


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch, untold: None) -> None:
    """This process's CPUs, said to lie on two nodes."""
    cpus = sorted(threads.process_affinity())
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    rows = [Cpu(number, number, 0, min(i, 1), number, number) for i, number in enumerate(cpus)]
    monkeypatch.setattr(placement, "read_topology", lambda: Topology(tuple(rows)))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"threads": 4096}, "4096 threads were asked for"), ({"numa_node_id": 77}, "NUMA node 77 was asked for")],
    ids=["threads", "node"],
)
def test_what_is_not_there_is_told_once(untold: None, options: dict, said: str) -> None:
    with pytest.warns(threads.ThreadingLayerWarning, match=said) as caught:
        first = WorkerThreads(EngineConfig(**options))
    assert len(caught) == 1
    assert WorkerThreads(EngineConfig(**options)).placement == first.placement
    assert 1 <= first.num_threads <= len(threads.process_affinity())
    assert kernel_thread.call(first.apply) == first.num_threads


@real
@two_cpus
@pytest.mark.parametrize(("node", "mode"), [(-1, INTERLEAVE), (0, PREFERRED)], ids=["all nodes", "node 0"])
def test_memory_of_an_engine_is_on_the_nodes_of_its_threads(two_nodes: None, node: int, mode: int) -> None:
    policy()
    with DenseCore(builtin_model_path(), numa_node_id=node, max_model_len=256, max_num_seqs=16) as model:
        runner = model._engine.runner
        inner = runner.cache.k[0].reshape(-1)[8192:]  # a whole page at its start
        assert policy(inner.view("uint8"))[0] == mode
        assert kernel_thread.call(policy) == (0, []), "the thread's own policy was for reading the weights"
        first = min(threads.process_affinity())
        where = kernel_thread.call(lambda: [os.sched_getaffinity(worker) for worker in threads.worker_thread_ids()])
        assert len(where) == len(set(map(min, where)))
        assert node == -1 or where == [{first}]
        assert model.generate("import os", max_tokens=2)


@two_cpus
def test_forbidden_placement_is_told_once_and_the_engine_runs(
    two_nodes: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(numa, "_call", lambda name, *_: f"{name}: Operation not permitted")
    with pytest.warns(threads.ThreadingLayerWarning, match="SYS_NICE") as caught:
        model = DenseCore(builtin_model_path(), numa_node_id=0)
    assert len(caught) == 1
    assert "mbind: Operation not permitted" in str(caught[0].message)
    with model, DenseCore(builtin_model_path(), numa_node_id=0) as second:
        assert model.generate("import os", max_tokens=2, seed=1) == second.generate("import os", max_tokens=2, seed=1)


def test_one_node_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    if len(threads.read_topology().nodes) > 1:
        pytest.skip("this machine has several nodes")
    monkeypatch.setattr(numa, "_call", lambda *_: pytest.fail("a system call on a machine with one node"))
    with DenseCore(builtin_model_path()) as model:
        assert not model._engine.runner.workers.places_memory
