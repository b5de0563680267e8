"""What a decode step costs beside its matrix products and its attention: ``python -m bench.overhead MODEL``.

One step is recorded and replayed again and again, with the time taken after each of its stages. The fastest tenth of
the runs counts, because whatever else runs on the machine makes times longer: of each stage its median in them. Stages
of the same operations are added up. The time of a stage includes the waiting of workers for each other at its end.
Overhead is all but products and attention. Beside that, "a step of the engine" is timed as a whole, with what Python
does before and after; the shortest time is shown.

``--busy`` does the same beside a Python thread that never rests, and so wants the interpreter lock all the time. It
needs a CPU of its own: with as many threads as CPUs, it takes a worker's CPU away, which costs more than the lock.
"""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np
from numba import prange, types
from numba.core.typing import signature

from bench.compare import model_path
from bench.models import default_folder
from densecore.benchmark import StepTimer, markdown_table
from densecore.engine.kernel_thread import kernel_thread
from densecore.kernels.cache import kernel
from densecore.kernels.plan import Plan, work_on_stage
from densecore.kernels.threads import default_thread_count
from densecore.models import Batch, KVCache
from densecore.models.step import Step, Workspace

WHOLE = "a step of the engine"
KERNELS = ("matmul", "attention")

clock_gettime = types.ExternalFunction("clock_gettime", signature(types.int32, types.int32, types.uintp))
CLOCK = time.CLOCK_MONOTONIC


def record_step(timer: StepTimer, depth: int) -> Plan:
    """The operations of a step of one token after `depth` others."""
    num_blocks = depth // timer.config.block_size + 1
    cache = KVCache(timer.model.config, num_blocks, timer.config.block_size, timer.config.kv_cache_dtype)
    batch = Batch.contiguous(np.zeros(1, np.int32), depth, num_blocks, timer.config.block_size)
    plan = Plan()
    timer.model.compute(Step(batch, cache, Workspace(), plan=plan))
    return plan


@kernel(parallel=True)
def run_timed(schedule, state, num_workers, address):
    """As `run_plan`; each worker writes the time (two int64, a timespec) before the first stage and after each."""
    for worker in prange(num_workers):
        num_stages = schedule.stage_tasks.size
        place = address + 16 * worker * (num_stages + 1)
        clock_gettime(CLOCK, place)
        for stage in range(num_stages):
            work_on_stage(schedule, stage, state, num_workers)
            clock_gettime(CLOCK, place + 16 * (stage + 1))


def stage_seconds(step: Plan, num_workers: int) -> np.ndarray:
    """How long each stage of the plan took in one run: (num_stages,)."""
    times = np.zeros((num_workers, len(step.stages) + 1, 2), np.int64)
    run_timed(*step.prepare(), num_workers, times.ctypes.data)
    seconds = (times[..., 0] - times[0, 0, 0]) + 1e-9 * times[..., 1]
    return np.diff(seconds.min(0))  # a stage ends when the first worker goes on: another may have been displaced


def kind(operations: list[str]) -> str:
    """A stage by its operations, such as ``add, rms_norm, quantize_q8``."""
    return ", ".join(dict.fromkeys(name.rsplit(".", 1)[-1] for name in operations))


def measure(timer: StepTimer, step: Plan, rounds: int) -> dict[str, float]:
    """Seconds of a decode step as the engine does it, and of the stages of each kind."""
    sequences = timer.sequences()

    def run() -> tuple[int, np.ndarray]:
        num_workers = timer.workers.apply()
        measured = [(sequences.decode(1), stage_seconds(step, num_workers)) for _ in range(rounds)]
        fastest = sorted((stages for _, stages in measured), key=np.sum)[: -(-rounds // 10)]
        return min(whole for whole, _ in measured), np.median(fastest, axis=0)

    whole, stages = kernel_thread.call(run)
    times = {WHOLE: whole / 1e9}
    for operations, seconds in zip(step.stages, stages, strict=True):
        times[kind(operations)] = times.get(kind(operations), 0.0) + seconds
    return times


@contextlib.contextmanager
def busy_python_thread() -> Iterator[None]:
    """A thread that computes in Python all the time."""
    stopped = threading.Event()

    def spin() -> None:
        while not stopped.is_set():
            pass

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def report(columns: dict[str, dict[str, float]], step: Plan) -> str:
    """A Markdown table in milliseconds, a column for each way of running."""
    kinds = [kind(operations) for operations in step.stages]
    rows = [[WHOLE, "", *(f"{1e3 * times[WHOLE]:.3f}" for times in columns.values())]]
    sums = [sum(times[name] for name in set(kinds)) for times in columns.values()]
    rest = [sum(times[name] for name in set(kinds) if name not in KERNELS) for times in columns.values()]
    rows.append(["all stages", str(len(kinds)), *(f"{1e3 * seconds:.3f}" for seconds in sums)])
    rows.append(["overhead", "", *(f"{1e3 * seconds:.3f}" for seconds in rest)])
    rows.append(["... of all", "", *(f"{100 * part / whole:.1f} %" for part, whole in zip(rest, sums, strict=True))])
    for name in dict.fromkeys(kinds):
        rows.append([f"`{name}`", str(kinds.count(name)), *(f"{1e3 * times[name]:.3f}" for times in columns.values())])
    return markdown_table(["ms", "stages", *columns], rows)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("model", help="a GGUF file, or SHAPE:TYPE")
    parser.add_argument(
        "--threads", default=f"1,{default_thread_count()}", metavar="N,...", help="(default %(default)s)"
    )
    parser.add_argument(
        "--depth", type=int, default=0, metavar="N", help="tokens before the one of the step (default 0)"
    )
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="the fastest tenth counts (default 100)")
    parser.add_argument("--busy", action="store_true", help="measure beside a busy Python thread, too")
    args = parser.parse_args()
    columns = {}
    with StepTimer(model_path(args.model, default_folder())) as timer:
        step = record_step(timer, args.depth)
        for count in dict.fromkeys(int(part) for part in args.threads.split(",")):
            timer.set_threads(count)
            name = f"{count} thread{'s' if count > 1 else ''}"
            columns[name] = measure(timer, step, args.rounds)
            if args.busy:
                with busy_python_thread():
                    columns[f"{name}, busy"] = measure(timer, step, args.rounds)
    print(report(columns, step))


if __name__ == "__main__":
    main()
