"""What a decode step costs beside its matrix products and its attention: ``python -m bench.overhead MODEL``.

The operations of one recorded step are timed together, and then kind by kind: all of a kind, one after the other. What
the step takes beyond its products and its attention is overhead: the small operations, and the waiting of workers for
each other between stages. All are timed in turn, round by round, and the shortest time counts, because whatever else
runs on the machine makes times longer. On a machine that is not quiet the overhead, a small difference of large times,
means little; what the small operations take by themselves can still be compared.

``--busy`` does the same beside a Python thread that never rests, and so wants the interpreter lock all the time. It
needs a CPU of its own: with as many threads as CPUs, it takes a worker's CPU away, which costs more than the lock.
"""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from bench.compare import model_path
from bench.models import default_folder
from densecore.benchmark import StepTimer, markdown_table
from densecore.engine.kernel_thread import kernel_thread
from densecore.kernels.plan import Operation, Plan
from densecore.kernels.threads import default_thread_count
from densecore.models import Batch, KVCache
from densecore.models.step import Step, Workspace

PRODUCTS, ATTENTION = "matmul", "attention"


def kind(op: Operation) -> str:
    """The kernel of an operation, or the group in which it is counted."""
    name = op.name.rsplit(".", 1)[-1]
    return ATTENTION if name == "merge_chunks" else name


def record_step(timer: StepTimer, depth: int) -> Plan:
    """The operations of a step of one token after `depth` others."""
    num_blocks = depth // timer.config.block_size + 1
    cache = KVCache(timer.model.config, num_blocks, timer.config.block_size, timer.config.kv_cache_dtype)
    batch = Batch.contiguous(np.zeros(1, np.int32), depth, num_blocks, timer.config.block_size)
    plan = Plan()
    timer.model.compute(Step(batch, cache, Workspace(), plan=plan))
    return plan


def plans_by_name(step: Plan) -> dict[str, Plan]:
    """The whole step; all of it but products and attention; and the operations of each kind by themselves."""
    kinds = dict.fromkeys(kind(op) for op in step.operations)
    rest = step.only(lambda op: kind(op) not in (PRODUCTS, ATTENTION))
    return {"step": step, "rest": rest} | {name: step.only(lambda op, name=name: kind(op) == name) for name in kinds}


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


def shortest_times(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds that each of `runs` took at best; each round times all of them in turn."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def measure(timer: StepTimer, step: Plan, rounds: int) -> dict[str, float]:
    """Seconds of a decode step as the engine does it ("forward"), and of each of `plans_by_name`."""
    sequences, plans = timer.sequences(), plans_by_name(step)
    runs: dict[str, Callable[[], object]] = {"forward": lambda: sequences.decode(1)}
    for name, plan in plans.items():
        runs[name] = lambda plan=plan: plan.run(timer.workers.apply())
    return kernel_thread.call(lambda: shortest_times(runs, rounds))


def count_kinds(step: Plan) -> dict[str, int]:
    """How many operations of each kind there are."""
    return dict(Counter(kind(op) for op in step.operations))


def report(columns: dict[str, dict[str, float]], step: Plan) -> str:
    """A Markdown table in milliseconds, a column for each way of running."""

    def row(title: str, value: Callable[[dict[str, float]], str], count: object = "") -> list[str]:
        return [title, str(count), *(value(times) for times in columns.values())]

    def milliseconds(name: str) -> Callable[[dict[str, float]], str]:
        return lambda times: f"{1e3 * times[name]:.3f}"

    def overhead(times: dict[str, float]) -> float:
        return times["step"] - times[PRODUCTS] - times[ATTENTION]

    rows = [
        row("a step of the engine", milliseconds("forward")),
        row(f"its operations, in {step.num_stages} stages", milliseconds("step"), len(step)),
        row("overhead: without products and attention", lambda times: f"{1e3 * overhead(times):.3f}"),
        row("... of the step", lambda times: f"{100 * overhead(times) / times['step']:.1f} %"),
        row("the other operations by themselves", milliseconds("rest")),
        *(row(f"`{name}`", milliseconds(name), count) for name, count in count_kinds(step).items()),
    ]
    return markdown_table(["ms", "operations", *columns], rows, left=1)


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
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="the best one counts (default 100)")
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
