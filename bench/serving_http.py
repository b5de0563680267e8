"""What HTTP costs: ``python -m bench.serving_http MODEL``: the server with streaming clients, and its engine alone.

* **decode**: tokens a second while all 32 requests decode, by the engine alone and by the server, in turn. Other work
  on the machine makes both slower, so that the fastest round of each counts.
* **a chunk**: CPU time of the server's event loop for each chunk that it sent: requests, texts, JSON, sockets.
* **/health**: how long it takes while the streams run, asked every 20 ms.

The server lives in this process, on the engine that was measured alone; its clients live in another one, speak HTTP by
hand, and so take little of the CPU that they share with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.compare import model_path
from bench.models import default_folder
from bench.serving import Request, prompt
from densecore import DenseCore
from densecore.benchmark import markdown_table
from densecore.server.app import create_app
from densecore.server.registry import ModelEntry
from densecore.server.serving import Server, listen
from densecore.server.settings import ServerSettings

HEALTH_SECONDS = 0.02
HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class Streams:
    """What clients saw: tokens a second, chunks of all, and seconds of each health check."""

    rate: float
    num_chunks: int
    health: list[float]


# ---------------------------------------------------------------------- clients, in a process of their own


def decode_rate(times: list[list[float]], max_tokens: int) -> float:
    """Tokens a second while all requests decode, from when their pieces came; a piece may have several tokens."""
    first, last = max(each[0] for each in times), min(each[-1] for each in times)
    inside = [sum(first < moment <= last for moment in each) * max_tokens / len(each) for each in times]
    return sum(inside) / (last - first)


class Stream(asyncio.Protocol):
    """Asks for one answer, and notes when each of its chunks comes; `ended` is done when the connection is closed."""

    def __init__(self, body: bytes) -> None:
        self._request = HEAD.format(len(body)).encode() + body
        self.times: list[float] = []
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.times += [time.perf_counter()] * data.count(b"data: {")

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set_result(None)


async def stream(port: int, body: bytes) -> list[float]:
    """When each chunk of one answer came."""
    loop = asyncio.get_running_loop()
    _, found = await loop.create_connection(lambda: Stream(body), "127.0.0.1", port)
    await found.ended
    return found.times


async def check_health(port: int, found: list[float]) -> None:
    """Ask again and again, over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            start = time.perf_counter()
            writer.write(HEALTH)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert head.startswith("HTTP/1.1 200"), head
            await reader.readexactly(int(head.lower().partition("content-length: ")[2].split("\r")[0]))
            found.append(time.perf_counter() - start)
            await asyncio.sleep(HEALTH_SECONDS)
    finally:
        writer.close()


async def ask_all(port: int, prompts: list[list[int]], max_tokens: int, health: bool) -> dict[str, Any]:
    """All streams at once."""
    options = {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    latencies: list[float] = []
    checking = asyncio.create_task(check_health(port, latencies)) if health else None
    bodies = [json.dumps({"prompt": ids} | options).encode() for ids in prompts]
    times = await asyncio.gather(*(stream(port, body) for body in bodies))
    if checking is not None:
        checking.cancel()
    return {"rate": decode_rate(times, max_tokens), "num_chunks": sum(map(len, times)), "health": latencies}


# ---------------------------------------------------------------------- the server, and the engine alone


@contextmanager
def serving(model: DenseCore, path: Path) -> Iterator[tuple[int, int]]:
    """A server of the model that is loaded already: its port, and the clock of its event loop's CPU time."""
    settings = ServerSettings(port=0, log_level="warning")
    app = create_app(settings, [ModelEntry("model", path)], lambda entry: model)
    server = Server(app, settings)
    with listen("127.0.0.1", 0) as sock:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        while app.state.service.registry.default.model is None:
            time.sleep(0.01)
        assert thread.ident is not None
        yield sock.getsockname()[1], time.pthread_getcpuclockid(thread.ident)
        server.should_exit = True
        thread.join()


def by_server(port: int, prompts: list[list[int]], max_tokens: int, *, health: bool) -> Streams:
    """What a process of clients sees."""
    asked = json.dumps([port, prompts, max_tokens, health])
    command = [sys.executable, "-m", "bench.serving_http", "--clients"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
    return Streams(**json.loads(done.stdout))


def by_engine(model: DenseCore, prompts: list[list[int]], max_tokens: int) -> float:
    """Tokens a second."""
    requests = [Request(model, ids, max_tokens) for ids in prompts]
    for request in requests:
        request.wait()
    return decode_rate([request.times for request in requests], max_tokens)


def measure(model: DenseCore, path: Path, count: int, max_tokens: int, rounds: int) -> list[list[str]]:
    """Rows of the table."""
    rng = random.Random(0)
    engine, server, chunk, latencies = [], [], [], []

    def prompts() -> list[list[int]]:
        return [prompt(model, 16, rng) for _ in range(count)]

    with serving(model, path) as (port, clock):

        def ask_server() -> None:
            before = time.clock_gettime(clock)
            found = by_server(port, prompts(), max_tokens, health=False)
            chunk.append((time.clock_gettime(clock) - before) / found.num_chunks)
            server.append(found.rate)

        def ask_engine() -> None:
            engine.append(by_engine(model, prompts(), max_tokens))

        by_server(port, prompts(), 8, health=True)  # what is done once is done
        for number in range(rounds):
            for ask in (ask_engine, ask_server)[:: 1 - 2 * (number % 2)]:
                ask()
            print(f"  {100 * server[-1] / engine[-1]:.1f} %, {1e6 * chunk[-1]:.0f} us", file=sys.stderr, flush=True)
        for _ in range(-(-rounds // 3)):
            latencies += by_server(port, prompts(), max_tokens, health=True).health
    ratios = [b / a for a, b in zip(engine, server, strict=True)]
    p50, p99 = np.percentile(latencies, [50, 99])
    return [
        [f"engine alone, {count} requests: fastest round", f"{max(engine):.1f} tokens/s", _range(engine, 1)],
        [f"{count} streaming clients", f"{max(server):.1f} tokens/s", _range(server, 1)],
        ["... of the engine", f"{100 * max(server) / max(engine):.1f} %", f"within a round {_range(ratios, 100)}"],
        ["the event loop's CPU time for a chunk", f"{1e6 * statistics.median(chunk):.0f} us", _range(chunk, 1e6)],
        ["`/health` meanwhile: p99", f"{1e3 * p99:.1f} ms", f"p50 {1e3 * p50:.1f} ms, {len(latencies)} times"],
    ]


def _range(values: list[float], scale: float) -> str:
    low, middle, high = (scale * value for value in (min(values), statistics.median(values), max(values)))
    return f"{low:.1f} to {high:.1f}, median {middle:.1f}"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving_http", description=__doc__)
    parser.add_argument("model", nargs="?", help="a GGUF file, or SHAPE:TYPE")
    parser.add_argument("--clients", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--streams", type=int, default=32, metavar="N", help="at once (default 32)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of each answer (default 64)")
    parser.add_argument("--rounds", type=int, default=8, metavar="N", help="(default 8)")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.clients:
        print(json.dumps(asyncio.run(ask_all(*json.load(sys.stdin)))))
        return
    if args.model is None:
        parser.error("a model is missing")
    path = model_path(args.model, default_folder())
    with DenseCore(path, args.threads, max_model_len=args.tokens + 64, max_num_seqs=args.streams) as model:
        model.compile_kernels()
        by_engine(model, [prompt(model, 16, random.Random(1)) for _ in range(args.streams)], 8)
        rows = measure(model, path, args.streams, args.tokens, args.rounds)
    print(markdown_table([path.name, "", ""], rows))


if __name__ == "__main__":
    main()
