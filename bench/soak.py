"""Many clients for a long time: ``python -m bench.soak``. Nothing may grow, get lost or get stuck.

Each of the clients asks, reads or waits, and asks again; of the requests 30 % are given up at a random moment. The
first sixth of the time, 5 minutes at most, is for warming up. After that memory may grow by 20 MB; at the end threads,
open files and blocks must be as they were in the beginning. The exit status tells.
"""

from __future__ import annotations

import argparse
import random
import threading
import time

import psutil

from densecore import DenseCore
from densecore.data import builtin_model_path
from densecore.exceptions import DenseCoreError, QueueFullError

MAX_GROWTH = 20e6  # bytes
STUCK_SECONDS = 60.0  # without the end of any request
CANCELLED = 0.3  # of all requests


class Clients:
    """Threads that use a model until they are told to stop."""

    def __init__(self, model: DenseCore, count: int, seed: int) -> None:
        self.model = model
        self.stopping = threading.Event()
        self.errors: list[BaseException] = []
        self.num_done = [0] * count
        self.num_cancelled = [0] * count
        rng = random.Random(seed)
        self.stems = [[rng.randrange(300, 2000) for _ in range(length)] for length in (0, 10, 40, 80)]
        self.threads = [threading.Thread(target=self._work, args=(n, seed + n)) for n in range(count)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> list[threading.Thread]:
        """Those that do not come to an end."""
        self.stopping.set()
        limit = time.monotonic() + STUCK_SECONDS
        for thread in self.threads:
            thread.join(max(0.0, limit - time.monotonic()))
        return [thread for thread in self.threads if thread.is_alive()]

    def _work(self, number: int, seed: int) -> None:
        rng = random.Random(seed)
        while not self.stopping.is_set():
            try:
                self._ask(number, rng)
            except QueueFullError:
                time.sleep(0.01)
            except BaseException as error:
                self.errors.append(error)
                return

    def _ask(self, number: int, rng: random.Random) -> None:
        tokens = rng.choice(self.stems) + [rng.randrange(300, 2000) for _ in range(rng.randint(1, 60))]
        options = {"max_tokens": rng.randint(1, 64), "priority": rng.choice([0, 0, 1]), "seed": rng.randrange(100)}
        given_up_after = rng.randint(0, 20) if rng.random() < CANCELLED else None
        if rng.random() < 0.5:
            with self.model.stream(tokens, **options) as stream:
                for count, _ in enumerate(stream):
                    if count == given_up_after:
                        break
        else:
            future = self.model.submit(tokens, **options)
            if given_up_after is None:
                future.result()
            else:
                time.sleep(rng.random() * 0.2)
                future.cancel()
        self.num_cancelled[number] += given_up_after is not None
        self.num_done[number] += 1


class Watch:
    """The process's memory, threads and files."""

    def __init__(self) -> None:
        self.process = psutil.Process()

    def state(self) -> dict[str, int]:
        return {"threads": self.process.num_threads(), "files": self.process.num_fds()}

    @property
    def memory(self) -> int:
        return self.process.memory_info().rss


def soak(model: DenseCore, seconds: float, count: int, seed: int = 0, report: float = 60.0) -> list[str]:
    """Run the clients, printing a line now and then; what went wrong, nothing if all is well."""
    model.complete([5], max_tokens=2)
    watch = Watch()
    before = watch.state()
    clients = Clients(model, count, seed)
    start = moved = told = time.monotonic()
    num_done, base, problems = 0, None, []
    while (now := time.monotonic()) < start + seconds and not clients.errors:
        time.sleep(min(1.0, start + seconds - now + 0.01))
        if base is None and now - start >= min(seconds / 6, 300):
            base = watch.memory
        if sum(clients.num_done) > num_done:
            num_done, moved = sum(clients.num_done), now
        elif now - moved > STUCK_SECONDS:
            problems.append(f"no request has ended for {STUCK_SECONDS:.0f} seconds")
            break
        if now - told >= report:
            told = now
            print(f"{now - start:6.0f} s  {num_done} requests  {watch.memory / 1e6:.1f} MB", flush=True)
    grown = watch.memory - (base or watch.memory)
    problems += [f"client {thread.name} is stuck" for thread in clients.stop()]
    problems += [f"a client failed: {error!r}" for error in clients.errors]
    problems += _left_behind(model, before, watch)
    if grown > MAX_GROWTH:
        problems.append(f"memory has grown by {grown / 1e6:.1f} MB")
    print(
        f"{sum(clients.num_done)} requests, {sum(clients.num_cancelled)} given up; memory grew by {grown / 1e6:.1f} MB"
    )
    return problems


def _left_behind(model: DenseCore, before: dict[str, int], watch: Watch) -> list[str]:
    """What is not as it was."""
    limit = time.monotonic() + 10
    while (metrics := model.get_metrics())["active_requests"] + metrics["waiting_requests"]:
        if time.monotonic() > limit:
            return [f"requests are left: {metrics}"]
        time.sleep(0.05)
    problems = []
    if metrics["kv_cache_blocks_free"] != metrics["kv_cache_blocks_total"]:
        problems.append(f"blocks are left: {metrics}")
    while _has_more(after := watch.state(), before) and time.monotonic() < limit:
        time.sleep(0.05)  # a thread that was joined may still be on its way out
    if _has_more(after, before):
        problems.append(f"{before} have become {after}")
    return problems


def _has_more(after: dict[str, int], before: dict[str, int]) -> bool:
    """Whether something is left. Less than before is none of ours: what else is in the process may have ended."""
    return any(after[name] > count for name, count in before.items())


def main() -> None:
    """Soak, and say what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument(
        "model", nargs="?", default=builtin_model_path(), help="a GGUF file (default: the built-in one)"
    )
    parser.add_argument("--seconds", type=float, default=1800, metavar="N", help="how long (default 1800)")
    parser.add_argument("--clients", type=int, default=32, metavar="N", help="at once (default 32)")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    try:
        with DenseCore(args.model, args.threads) as model:
            problems = soak(model, args.seconds, args.clients)
    except DenseCoreError as error:
        problems = [str(error)]
    for problem in problems:
        print(f"PROBLEM: {problem}")
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
