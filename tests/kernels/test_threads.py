"""Threading layer and pinning for real, in new processes: both are decided once a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from densecore.kernels.cpu_limits import process_affinity

PROLOGUE = """
import ctypes, json, os, sys, threading, warnings
result = {}
"""
EPILOGUE = """
print(json.dumps(result))
"""
HIDE_OPENMP = """
sys.modules["numba.np.ufunc.omppool"] = None  # as where libgomp.so.1 is not installed
"""
HIDE_TBB = """
sys.modules["numba.np.ufunc.tbbpool"] = None
"""
START = """
from densecore.kernels import threads
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    result["before"] = threads.threading_layer()
    result["layer"] = [threads.start_threading_layer() for _ in range(2)] + [threads.threading_layer()]
    result["warnings"] = [str(warning.message) for warning in caught]
"""
PIN = """
import numba
from densecore.kernels import threads
from densecore.kernels.cache import num_compiled

def masks():
    return [sorted(os.sched_getaffinity(thread)) for thread in threads.worker_thread_ids()]

def work():
    cpus = sorted(threads.process_affinity())
    result["num_threads"] = threads.set_num_threads(2)
    result["distinct"] = len(threads.worker_thread_ids())
    result["pinned"] = [threads.pin_worker_threads(cpus), masks()]
    result["default"] = [threads.default_thread_count(), sorted(threads.process_affinity()) == cpus]
    result["main"] = sorted(os.sched_getaffinity(os.getpid())) == cpus
    result["impossible"] = [threads.pin_worker_threads([4095]), masks() == [cpus, cpus]]
    result["one cpu"] = [threads.pin_worker_threads(cpus[:1]), masks()]
    result["nothing"] = [threads.pin_worker_threads([]), masks()]
    result["unpinned"] = [threads.unpin_worker_threads(), masks() == [cpus, cpus]]
    result["compiled"] = num_compiled()

result["cpus"] = sorted(threads.process_affinity())
worker = threading.Thread(target=work)
worker.start()
worker.join()
"""
ONE_MORE_THAN_THE_POOL = """
from densecore.kernels import threads
import numba
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    size = numba.config.NUMBA_NUM_THREADS
    result["clamped"] = threads.set_num_threads(size + 1) == size == numba.get_num_threads()
    result["warnings"] = [str(warning.message) for warning in caught]
"""
SPIN_COUNT = """
from densecore.kernels import threads
import importlib
seen = []
find = importlib.import_module
importlib.import_module = lambda name: (seen.append(os.environ.get("GOMP_SPINCOUNT")), find(name))[1]
threads.start_threading_layer()
result["at load"] = seen[0]
result["after"] = os.environ.get("GOMP_SPINCOUNT")
"""

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pinning is done on Linux")
two_cpus = pytest.mark.skipif(len(process_affinity()) < 2, reason="needs two CPUs")


def run(*code: str, cache: Path | None = None, **variables: str) -> dict:
    """What the code leaves in ``result`` in a new process."""
    unset = ("NUMBA_THREADING_LAYER", "NUMBA_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"DENSECORE_CACHE": "off"} if cache is None else {"DENSECORE_CACHE_DIR": str(cache)}
    program = "".join((PROLOGUE, *code, EPILOGUE))
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def has(module: str) -> bool:
    """Whether Numba's backend can be loaded here, TBB by way of the package."""
    code = f"from densecore.kernels import threading_layer as t; sys.exit(not t._has_{module}())"
    return subprocess.run([sys.executable, "-c", f"import sys; {code}"], check=False).returncode == 0


def test_openmp_is_preferred() -> None:
    if not has("omp"):
        pytest.skip("no OpenMP library here")
    assert run(START) == {"before": None, "layer": ["omp"] * 3, "warnings": []}


def test_tbb_package_is_found_without_openmp() -> None:
    if not has("tbb"):
        pytest.skip("the tbb package is not installed")
    assert run(HIDE_OPENMP, START) == {"before": None, "layer": ["tbb"] * 3, "warnings": []}


def test_workqueue_costs_one_warning_that_says_what_to_install() -> None:
    result = run(HIDE_OPENMP, HIDE_TBB, START)
    assert result["layer"] == ["workqueue"] * 3
    [message] = result["warnings"]
    assert "libgomp1" in message
    assert "tbb" in message


@pytest.mark.parametrize("layer", ["workqueue", "tbb"])
def test_users_choice_is_kept(layer: str) -> None:
    if layer == "tbb" and not has("tbb"):
        pytest.skip("the tbb package is not installed")
    result = run(START, NUMBA_THREADING_LAYER=layer)
    assert (result["layer"], result["warnings"]) == ([layer] * 3, [])


def test_pool_of_numba_bounds_the_number_of_threads() -> None:
    result = run(ONE_MORE_THAN_THE_POOL, NUMBA_NUM_THREADS="1")
    assert result["clamped"]
    [message] = result["warnings"]
    assert "NUMBA_NUM_THREADS=2" in message


@linux_only
@pytest.mark.parametrize(
    ("variables", "at_load", "after"),
    [
        ({}, {"1000", "0"}, None),
        ({"GOMP_SPINCOUNT": "7"}, {"7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, {None}, None),
    ],
    ids=["bounded", "GOMP_SPINCOUNT set", "OMP_WAIT_POLICY set"],
)
def test_spinning_is_bounded_unless_the_user_says_otherwise(
    variables: dict[str, str], at_load: set, after: str | None
) -> None:
    result = run(SPIN_COUNT, **variables)
    assert result["at load"] in at_load
    assert result["after"] == after


@linux_only
@two_cpus
@pytest.mark.parametrize("layer", ["omp", "tbb"])
def test_workers_are_pinned_and_released(tmp_path: Path, layer: str) -> None:
    if not has(layer):
        pytest.skip(f"no library for {layer} here")
    result = run(PIN, cache=tmp_path / "cache", NUMBA_THREADING_LAYER=layer)
    cpus = result.pop("cpus")
    assert result == {
        "num_threads": 2,
        "distinct": 2,
        "pinned": [True, [[cpus[0]], [cpus[1]]]],
        "default": [result["default"][0], True],
        "main": True,
        "impossible": [False, True],
        "one cpu": [True, [cpus[:1], cpus[:1]]],
        "nothing": [False, [cpus[:1], cpus[:1]]],
        "unpinned": [True, True],
        "compiled": 1,
    }
    assert result["default"][0] >= 1
    assert run(PIN, cache=tmp_path / "cache", NUMBA_THREADING_LAYER=layer)["compiled"] == 0
