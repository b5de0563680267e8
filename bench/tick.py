"""What a step of many sequences takes beside the model, part by part: ``python -m bench.tick MODEL``.

Scheduling, making the batch, sampling, and text and events (``postprocess``), for several ways to sample, medians of a
hundred steps in which all sequences decode. Other work on the machine makes times longer.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench.compare import model_path
from bench.models import default_folder
from bench.serving import Request, prompt
from densecore import DenseCore
from densecore.benchmark import markdown_table
from densecore.engine import runner

CONFIGURATIONS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0},
    "greedy, repetition_penalty": {"temperature": 0, "repetition_penalty": 1.1},
    "top-k 40, top-p 0.95": {"temperature": 0.8, "top_k": 40, "top_p": 0.95},
    "min-p 0.05": {"temperature": 0.8, "top_k": 0, "top_p": 1, "min_p": 0.05},
    "top-p 0.95": {"temperature": 0.8, "top_k": 0, "top_p": 0.95},
    "temperature alone": {"temperature": 0.8, "top_k": 0, "top_p": 1},
    "mirostat": {"temperature": 0.8, "mirostat": 2},
    "typical-p 0.95": {"temperature": 0.8, "top_k": 0, "top_p": 1, "typical_p": 0.95},
}
OFF = {"repetition_penalty": 1.0}
STEPS = 100


class Profile:
    """Seconds that parts of each step took, once they are watched."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def watch(self, owner: Any, name: str, part: str, without: str | None = None) -> Iterator[None]:
        """Time calls of `owner.name` as a part of the step; what is `without` another part is less by that."""
        function: Callable[..., Any] = getattr(owner, name)
        taken = self.seconds.setdefault(part, [])

        def timed(*arguments: Any) -> Any:
            others = self.seconds[without] if without else []
            before, start = len(others), time.perf_counter()
            try:
                return function(*arguments)
            finally:
                taken.append(time.perf_counter() - start - sum(others[before:]))

        setattr(owner, name, timed)
        try:
            yield
        finally:
            setattr(owner, name, function)

    def median(self, part: str) -> float:
        """Milliseconds, over the steps but the first, which may have begun before."""
        return 1e3 * float(np.median(self.seconds[part][1:]))


def measure(model: DenseCore, count: int, options: dict[str, float], steps: int, rng: random.Random) -> Profile:
    """Watch `steps` steps of `count` decoding sequences."""
    engine, profile = model._engine, Profile()
    room = model.max_model_len - 16  # they are given up in the end, but must not end before, on a busy machine either
    with contextlib.ExitStack() as stack:
        for owner, name, part in (
            (engine.runner, "run", "model with batch"),
            (runner, "build_batch", "batch"),
            (engine.scheduler, "schedule", "schedule"),
            (engine, "_sample", "sample"),
            (engine.scheduler, "postprocess", "text, events"),
        ):
            stack.enter_context(profile.watch(owner, name, part))
        stack.enter_context(profile.watch(engine, "step", "all but model and batch", without="model with batch"))
        # The first steps, of prompts, are watched, too, and are too few to move a median.
        requests = [Request(model, prompt(model, 8, rng), room, **(OFF | options)) for _ in range(count)]
        _wait_for(requests, 20 + steps)
    for request in requests:
        request.cancel()
        request.ended.wait()
    return profile


def _wait_for(requests: list[Request], num_tokens: int) -> None:
    while min(len(request.times) for request in requests) < num_tokens:
        time.sleep(0.01)


def table(model: DenseCore, count: int, steps: int, rng: random.Random) -> list[list[str]]:
    """A row for each way to sample: milliseconds of each part, of all that is not the model, and of the model."""
    rows = []
    for name, options in CONFIGURATIONS.items():
        profile = measure(model, count, options, steps, rng)
        parts = [profile.median(part) for part in ("schedule", "batch", "sample", "text, events")]
        beside = profile.median("all but model and batch") + parts[1]
        rows.append([name, *(f"{x:.2f}" for x in (*parts, beside, profile.median("model with batch") - parts[1]))])
    return rows


HEAD = ["ms of a step", "schedule", "batch", "sample", "text, events", "all beside the model", "model"]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.tick", description=__doc__)
    parser.add_argument("model", help="a GGUF file, or SHAPE:TYPE")
    parser.add_argument("--sequences", type=int, default=32, metavar="N", help="at once (default %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=STEPS, metavar="N", help="to take medians of (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    path = model_path(args.model, default_folder())
    with DenseCore(path, args.threads, max_model_len=1024, max_num_seqs=args.sequences) as model:
        print(f"{path.name}, {args.sequences} sequences\n")
        print(markdown_table(HEAD, table(model, args.sequences, args.steps, random.Random(0))))


if __name__ == "__main__":
    main()
