"""Kernels of a model compiled by several processes, of which any may be killed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from densecore import DenseCore
from densecore.data import builtin_model_path
from densecore.precompile import parallel
from tests.cli.conftest import environment, finish, start
from tests.gguf_factory import make_model

PROLOGUE = """
import json, os, signal, sys
from densecore import DenseCore
from densecore.kernels.cache import num_compiled, num_compiled_elsewhere
from densecore.precompile import needed, parallel
path, result = sys.argv[1], {}

def missing(model):
    return [compilation.description for compilation in needed.find_needed(model._engine.model, "f16")]
"""
COMPILE = """
with DenseCore(path) as model:
    before = missing(model)
    result["missing"] = [len(before), num_compiled()]
    result["compiled"] = model.compile_kernels(2)
    result["here"], result["elsewhere"] = num_compiled(), num_compiled_elsewhere()
    result["left"] = missing(model)
    result["again"] = model.compile_kernels(2)
"""
USE = """
    before = num_compiled()
    for length in (100, 3, 1):
        model.complete([1] * length, max_tokens=2, temperature=0.0)
    streams = [model.stream([1, 2], max_tokens=3, seed=seed, min_p=0.1) for seed in range(4)]
    result["texts"] = ["".join(stream) for stream in streams]
    model.forward([1, 2, 3])
    result["in use"] = num_compiled() - before
"""
KILL_THE_HELPER = """
ask = parallel._Helper._ask
def ask_and_kill(helper, value):
    if not isinstance(value, dict):
        helper._process.send_signal(signal.SIGKILL)
    return ask(helper, value)
parallel._Helper._ask = ask_and_kill
"""
NO_HELPER = """
sys.executable = "/nowhere/python3"
"""
PIN_THIS_PROCESS = """
from densecore.kernels.threads import process_affinity
from densecore.engine.kernel_thread import kernel_thread
cpus = process_affinity()
kernel_thread.call(lambda: os.sched_setaffinity(0, {min(cpus)}))
result["helper on"] = []
ask = parallel._Helper._ask
def ask_and_look(helper, value):
    answer = ask(helper, value)
    result["helper on"].append(sorted(os.sched_getaffinity(helper._process.pid)) == sorted(cpus))
    return answer
parallel._Helper._ask = ask_and_look
"""
EMBEDDED = """
sys.executable = "/usr/bin/program"
parallel._Helper = None
"""

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")


def run(cache: Path, model: Path, *code: str) -> dict:
    """What the code leaves in ``result``, in a new process with this cache."""
    program = "".join((PROLOGUE, *code, "\nprint(json.dumps(result))\n"))
    command = [sys.executable, "-W", "error", "-c", program, str(model)]
    env = environment(DENSECORE_CACHE_DIR=str(cache))
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the type that compiles fastest."""
    return make_model(tmp_path_factory.mktemp("model") / "m.gguf", tensor_type="F32", n_layers=1)


@pytest.fixture(scope="module")
def compiled(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A cache that two processes have filled, and what the first of them tells."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, run(cache, model, COMPILE, USE)


@pytest.fixture
def holed(compiled: tuple[Path, dict], tmp_path: Path) -> Path:
    """A copy of the cache without sampling, which takes long, and without the six smallest kernels of a step."""
    cache = tmp_path / "cache"
    shutil.copytree(compiled[0], cache)
    files = sorted(cache.glob("kernels/*/*.kernel"), key=lambda path: path.stat().st_size)
    steps = [path for path in files if path.name.startswith("plan.run_") and "run_plan" not in path.name]
    for path in [*steps[:6], *(path for path in files if "sample-" in path.name)]:
        path.unlink()
    return cache


def kernel_names(cache: Path) -> set[str]:
    return {path.name for path in cache.glob("kernels/*/*.kernel")}


def test_two_processes_compile_all_that_is_used(compiled: tuple[Path, dict]) -> None:
    _, result = compiled
    count, compiled_by_looking = result["missing"]
    assert count > 8
    assert compiled_by_looking == 0
    assert result["compiled"] == result["here"] + result["elsewhere"] >= count
    assert result["elsewhere"] > 0, "the other process has helped"
    assert (result["left"], result["again"], result["in use"]) == ([], 0, 0)


def test_kernels_of_the_other_process_are_as_good(compiled: tuple[Path, dict], model: Path, tmp_path: Path) -> None:
    alone = run(tmp_path, model, COMPILE.replace("compile_kernels(2)", "compile_kernels(1)"), USE)
    assert (alone["elsewhere"], alone["left"]) == (0, [])
    assert alone["texts"] == compiled[1]["texts"]
    assert kernel_names(tmp_path) == kernel_names(compiled[0])


@pytest.mark.parametrize("code", [KILL_THE_HELPER, NO_HELPER, EMBEDDED], ids=["killed", "no Python", "embedded"])
def test_without_help_this_process_compiles_all(holed: Path, model: Path, code: str) -> None:
    if code == NO_HELPER:
        code = code.replace("/nowhere/python3", str(holed / "python3"))
        (holed / "python3").write_text("#!/bin/sh\nexit 1\n")
        (holed / "python3").chmod(0o700)
    result = run(holed, model, code, COMPILE, USE)
    assert result["missing"] == [8, 0], "with the parallel kernels, which are there"
    assert (result["here"], result["elsewhere"]) == (7, 0)
    assert (result["left"], result["in use"]) == ([], 0)


@linux_only
def test_a_helper_does_not_stay_on_the_cpu_of_a_pinned_thread(holed: Path, model: Path) -> None:
    result = run(holed, model, PIN_THIS_PROCESS, COMPILE)
    assert result["elsewhere"] > 0
    assert set(result["helper on"]) == {True}


@linux_only
def test_killed_in_the_middle(holed: Path, compiled: tuple[Path, dict], model: Path) -> None:
    env = environment(DENSECORE_CACHE_DIR=str(holed))
    before = kernel_names(holed)
    process = start("warmup", "-q", "--processes", "2", "-m", model, env=env)
    wait_for(lambda: kernel_names(holed) - before)  # the helper's: the process itself is at sampling for seconds
    [helper] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() or children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not is_alive(int(helper)))
    assert len(kernel_names(holed) - before) < 7, "it was in the middle"

    status, out, err = finish(start("warmup", "-q", "-m", model, env=env))
    assert (status, err) == (0, "")
    assert out.startswith("compiled ")
    assert kernel_names(holed) == kernel_names(compiled[0])
    assert finish(start("warmup", "-q", "-m", model, env=env)).out.startswith("nothing to compile")


def children(pid: int) -> list[str]:
    """Of all threads of a process."""
    return [child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_where_nothing_is_missing_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    with DenseCore(builtin_model_path()) as model:
        model.compile_kernels()
        monkeypatch.setattr(parallel, "_compile_all", lambda *_: pytest.fail("there is nothing to compile"))
        assert model.compile_kernels() == 0


def test_without_a_cache_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cache_directory", lambda: None)
    monkeypatch.setattr(parallel, "find_needed", lambda *_: pytest.fail("there is nowhere to put it"))
    with DenseCore(builtin_model_path()) as model:
        assert model.compile_kernels() == 0


def test_without_the_compiler_nothing_is_done(model: Path, tmp_path: Path) -> None:
    env = environment(DENSECORE_CACHE_DIR=str(tmp_path), NUMBA_DISABLE_JIT="1")
    status, _, err = finish(start("run", "-q", "-n", "1", "-m", model, "a", env=env))
    assert (status, err) == (0, "")
    assert not kernel_names(tmp_path)


def test_one_process_for_little_work_and_not_more_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel.threads, "default_thread_count", lambda: 64)
    monkeypatch.setattr(parallel, "seconds", float)
    assert parallel._num_processes([0.3] * 3, 0) == 1
    assert parallel._num_processes([3.5, 3.5, 1.5, 1.5, 0.3], 0) == 5
    assert parallel._num_processes([3.5] * 100, 0) == parallel.MAX_PROCESSES
    assert parallel._num_processes([3.5] * 3, 2) == 2
    monkeypatch.setattr(parallel.threads, "default_thread_count", lambda: 1)
    assert parallel._num_processes([3.5] * 100, 0) == 1
