"""How the engine serves several requests at once: ``python -m bench.serving MODEL``.

* **second turn**: time to the first token of a conversation's first and second turn, the second of which begins with
  all of the first.
* **beside a prompt**: the time between tokens of a few requests, quiet and while a long prompt is computed, and how
  fast the prompt is then, compared with alone.
* **throughput**: requests of mixed lengths, all at once.

`bench.throughput` compares the last with llama.cpp; `bench.tick` says what a step takes beside the model.

Prompts are random tokens, and output does not end before its length. Other work on the machine makes times longer.
"""

from __future__ import annotations

import argparse
import random
import threading
import time

import numpy as np

from bench.compare import model_path
from bench.models import default_folder
from densecore import DenseCore, GenerationConfig
from densecore.benchmark import markdown_table
from densecore.engine.sequence import Event, Finished

MEASUREMENTS = ("turns", "beside", "throughput")


class Request:
    """A running request, and when its tokens came."""

    def __init__(self, model: DenseCore, prompt: list[int], max_tokens: int, **options: float) -> None:
        self.times: list[float] = []
        self.end: Finished | None = None
        self.ended = threading.Event()
        config = GenerationConfig(**({"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True} | options))
        self._engine = model._engine
        self.sequence = self._engine.submit(prompt, config, self._take)
        self._append, self.sequence.append = self.sequence.append, self._timed_append

    def wait(self) -> Finished:
        self.ended.wait()
        assert self.end is not None
        if self.end.error is not None:
            raise self.end.error
        return self.end

    def cancel(self) -> None:
        self._engine.abort(self.sequence)

    def _take(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.end = event
            self.ended.set()

    def _timed_append(self, token_id: int) -> str | None:
        """Text may be held back, so that events do not tell when a token comes."""
        self.times.append(time.perf_counter())
        return self._append(token_id)


def prompt(model: DenseCore, length: int, rng: random.Random) -> list[int]:
    """Random tokens, none of which is special in vocabularies as we know them."""
    return [rng.randrange(260, model.tokenizer.n_vocab - 300) for _ in range(length)]


def second_turn(model: DenseCore, length: int, rng: random.Random) -> list[list[str]]:
    """Time to the first token of both turns."""
    first = prompt(model, length, rng)
    end = Request(model, first, 64).wait()
    second = [*first, *end.token_ids, *prompt(model, 40, rng)]
    ends = [end, Request(model, second, 64).wait()]
    rows = []
    for turn, end in zip(("first", "second"), ends, strict=True):
        name = f"{turn} turn of {end.usage.prompt_tokens} tokens, {end.usage.cached_tokens} cached"
        rows.append([name, f"{end.timings.time_to_first_token:.3f} s", ""])
    ratio = ends[1].timings.time_to_first_token / ends[0].timings.time_to_first_token
    rows[1][2] = f"{100 * ratio:.1f} % of the first"
    return rows


def beside_a_prompt(model: DenseCore, length: int, count: int, rng: random.Random) -> list[list[str]]:
    """Gaps between tokens of `count` requests, without and with a prompt of `length` tokens beside them."""
    alone = Request(model, prompt(model, length, rng), 1).wait().timings.time_to_first_token
    others = [Request(model, prompt(model, 20, rng), length) for _ in range(count)]
    while min(len(other.times) for other in others) < 60:
        time.sleep(0.01)
    begin = time.perf_counter()
    beside = Request(model, prompt(model, length, rng), 1).wait().timings.time_to_first_token
    for other in others:
        other.cancel()
        other.ended.wait()
    quiet = np.concatenate([np.diff([t for t in other.times if t < begin])[10:] for other in others])
    busy = np.concatenate([np.diff([t for t in other.times if t >= begin]) for other in others])
    low, high = np.percentile(quiet, 95), np.percentile(busy, 95)
    return [
        [f"{count} requests, quiet: p95 between tokens", f"{1e3 * low:.1f} ms", f"median {1e3 * np.median(quiet):.1f}"],
        [f"beside a prompt of {length} tokens", f"{1e3 * high:.1f} ms", f"{high / low:.2f} times"],
        ["the prompt alone", f"{length / alone:.0f} tokens/s", ""],
        ["beside the requests", f"{length / beside:.0f} tokens/s", f"{100 * alone / beside:.0f} %"],
    ]


def throughput(model: DenseCore, count: int, rng: random.Random) -> list[list[str]]:
    """`count` requests at once, prompts of 16 to 512 and outputs of 16 to 128 tokens."""
    lengths = [(rng.randint(16, 512), rng.randint(16, 128)) for _ in range(count)]
    start = time.perf_counter()
    requests = [Request(model, prompt(model, length, rng), output) for length, output in lengths]
    ends = [request.wait() for request in requests]
    seconds = time.perf_counter() - start
    inputs, outputs = sum(end.usage.prompt_tokens for end in ends), sum(end.usage.completion_tokens for end in ends)
    name = f"{count} requests, {inputs} tokens in and {outputs} out"
    return [[name, f"{seconds:.1f} s", f"{outputs / seconds:.1f} tokens/s out"]]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("model", help="a GGUF file, or SHAPE:TYPE")
    parser.add_argument("--measure", default=",".join(MEASUREMENTS), metavar="NAME,...", help="(default: all)")
    parser.add_argument("--turn", type=int, default=2000, metavar="N", help="tokens of a first turn (default 2000)")
    parser.add_argument(
        "--prompt", type=int, default=4000, metavar="N", help="tokens of the long prompt (default 4000)"
    )
    parser.add_argument("--requests", default="8,32", metavar="N,...", help="at once (default %(default)s)")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(0)
    counts = [int(part) for part in args.requests.split(",")]
    longest = max(args.turn, args.prompt) + 512
    path = model_path(args.model, default_folder())
    with DenseCore(path, args.threads, max_model_len=longest, max_num_seqs=max(counts)) as model:
        Request(model, prompt(model, 600, rng), 20).wait()  # kernels are compiled
        rows: list[list[str]] = []
        for name in args.measure.split(","):
            if name == "turns":
                rows += second_turn(model, args.turn, rng)
            elif name == "beside":
                rows += beside_a_prompt(model, args.prompt, 4, rng)
            elif name == "throughput":
                rows += [row for count in counts for row in throughput(model, count, rng)]
            else:
                parser.error(f"--measure: {name!r} is none of {', '.join(MEASUREMENTS)}")
    print(markdown_table([path.name, "", ""], rows))


if __name__ == "__main__":
    main()
