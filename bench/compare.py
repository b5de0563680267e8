"""DenseCore and llama.cpp in turn on the same model: tokens a second of both, and their ratio.

::

    pip install 'densecore[bench]'             # with CMAKE_ARGS=-DGGML_NATIVE=ON, llama.cpp is made for this CPU
    python -m bench.compare model.gguf
    python -m bench.compare qwen2.5-0.5b:Q4_K_M --tests pp512,tg,tg@4096,tgx8 --rounds 5

Each engine lives in a process of its own, and while one computes the other sleeps; how much it slept is checked. Both
use the same threads, keys and values in float16, and flash attention; sampling is left out. Ratios are taken round by
round, from runs that follow each other: on a machine that others use too, they hold when absolute figures drift. The
table leaves out rounds in which other processes computed, unless all are such; ``--tries`` waits for calmer moments.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.children import Child
from bench.models import MIXES, SHAPES, default_folder, make_model
from densecore.benchmark.results import markdown_table

PEER, OWN = Path(__file__).with_name("peer.py"), "bench.own"
TESTS = "pp32,pp128,pp512,tg,tg@512,tg@4096,tgx2,tgx4,tgx8"
GUARD_TOKENS = 24
LARGEST_ERROR = 1e-2  # of the logits, normalised: more is a mistake, not rounding
PAUSE = 0.2  # seconds that threads of the engine before may take to fall asleep
CALM = 0.1  # CPUs that other processes may use while an engine is timed


@dataclasses.dataclass(frozen=True)
class Case:
    """`prompt` tokens at once, or `generated` steps of one token for each of `sequences`, after `depth` tokens."""

    name: str
    prompt: int
    generated: int
    depth: int
    sequences: int

    @classmethod
    def parse(cls, name: str, generated: int) -> Case:
        """From ``pp512``, ``tg``, ``tg@4096`` or ``tgx8``."""
        found = re.fullmatch(r"(?:pp(\d+)|tg)(?:@(\d+))?(?:x(\d+))?", name)
        if not found or (found[1] and found[3]) or "0" in (found[1], found[3]):
            raise argparse.ArgumentTypeError(f"{name!r} is not a test such as pp512, tg, tg@4096 or tgx8")
        return cls(name, int(found[1] or 0), 0 if found[1] else generated, int(found[2] or 0), int(found[3] or 1))

    def request(self, room: int, *, short: bool = False) -> dict[str, Any]:
        """What a child is asked for; a short one serves to warm up."""
        if self.prompt:
            return {"call": "prefill", "num_tokens": self.prompt, "depth": self.depth, "room": room}
        steps = min(self.generated, 2) if short else self.generated
        return {
            "call": "decode", "num_tokens": steps, "depth": self.depth, "num_sequences": self.sequences, "room": room,
        }  # fmt: skip

    @property
    def num_tokens(self) -> int:
        """Tokens computed, over all sequences."""
        return self.prompt or self.generated * self.sequences


@dataclasses.dataclass
class Comparison:
    """What was measured on one model."""

    model: str
    nmse: float
    busiest_idle: float  # most CPU seconds a second that the sleeping engine used
    rates: dict[str, dict[str, list[float]]]  # test -> engine -> tokens a second of each round
    loads: dict[str, list[float]]  # test -> CPUs that other processes used in each round, while either engine was timed

    def ratios(self, test: str) -> list[float]:
        """DenseCore's speed in units of the peer's, round by round."""
        own, peer = self.rates[test].values()
        return [a / b for a, b in zip(own, peer, strict=True)]

    def calm_rounds(self, test: str) -> list[int]:
        """Rounds in which other processes left the CPUs alone."""
        return [index for index, load in enumerate(self.loads[test]) if load <= CALM]

    def table(self) -> str:
        """Medians of both, and the ratios, in Markdown: of the calm rounds, or of all if none was calm."""
        rows = []
        for test, rates in self.rates.items():
            calm, every = self.calm_rounds(test), range(len(self.loads[test]))
            ratios = pick(self.ratios(test), calm or every)
            medians = (statistics.median(pick(samples, calm or every)) for samples in rates.values())
            spread = (min(ratios), statistics.median(ratios), max(ratios))
            count = f"{len(calm)} of {len(every)}"
            rows.append([test, *(f"{x:.1f}" for x in medians), *(f"{x:.2f}" for x in spread), count])
        engines = [f"{name}, t/s" for name in next(iter(self.rates.values()))]
        return markdown_table(["test", *engines, "ratio, min", "median", "max", "calm rounds"], rows)


def pick(values: list[float], indices: Iterable[int]) -> list[float]:
    """Some of the values."""
    return [values[index] for index in indices]


def compare(
    path: Path, tests: list[Case], threads: int, rounds: int, tries: int, peer_python: str
) -> tuple[Comparison, list[dict[str, Any]]]:
    """Run `tests` on one model; also what the engines say of themselves."""
    with Child([sys.executable, "-m", OWN, path, threads]) as own, Child([peer_python, PEER, path, threads]) as peer:
        children = [own, peer]
        result = Comparison(path.stem, _guard(own, peer), 0.0, {}, {})
        _say(f"{path.stem}: logits differ by {result.nmse:.1e} (NMSE)")
        room = max(max(test.prompt, test.generated) for test in tests)
        for test in tests:
            result.rates[test.name] = {child.head["name"]: [] for child in children}
            result.loads[test.name] = []
            for child in children:
                child.ask(**test.request(room, short=True))
        for round_number in range(rounds):
            for test in tests:
                turns = children[:: 1 - 2 * (round_number % 2)]
                loads = [_measure_calmly(test, child, children, room, tries, result) for child in turns]
                result.loads[test.name].append(max(loads))
                _say(f"  round {round_number + 1}: {test.name} {result.ratios(test.name)[-1]:.2f}")
        return result, [child.head for child in children]


def _measure_calmly(
    test: Case, child: Child, children: list[Child], room: int, tries: int, result: Comparison
) -> float:
    """Measure until other processes leave the CPUs alone; of `tries`, the one with the least load counts.

    Returns the CPUs that they used.
    """
    measured = []
    for _ in range(tries):
        measured.append(_measure(test, child, children, room, result))
        if measured[-1][0] <= CALM:
            break
    load, rate = min(measured)
    result.rates[test.name][child.head["name"]].append(rate)
    return load


def _measure(test: Case, child: Child, children: list[Child], room: int, result: Comparison) -> tuple[float, float]:
    """CPUs that other processes used meanwhile, and tokens a second."""
    time.sleep(PAUSE)
    (idle,) = (other for other in children if other is not child)
    before = _busy_seconds(), child.cpu_seconds(), idle.cpu_seconds()
    nanoseconds = child.ask(**test.request(room))
    every, own, idle_seconds = (
        (now - then) / (nanoseconds / 1e9)
        for now, then in zip((_busy_seconds(), child.cpu_seconds(), idle.cpu_seconds()), before, strict=True)
    )
    result.busiest_idle = max(result.busiest_idle, idle_seconds)
    return max(every - own - idle_seconds, 0.0), 1e9 * test.num_tokens / nanoseconds


def _busy_seconds() -> float:
    """Time that all CPUs have worked, or that the hypervisor has given to others."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _guard(own: Child, peer: Child) -> float:
    """Mean square of the difference of the logits of a short prompt, in units of the mean square of the logits."""
    ids = np.random.default_rng(1).integers(0, own.head["n_vocab"], GUARD_TOKENS).tolist()
    with tempfile.TemporaryDirectory() as folder:
        logits = []
        for child in (own, peer):
            path = Path(folder, f"{len(logits)}.npy")
            child.ask("logits", token_ids=ids, path=str(path))
            logits.append(np.load(path).astype(np.float64))
    return float(np.square(logits[0] - logits[1]).mean() / np.square(logits[1]).mean())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """What results depend on, and when they were measured."""
    from densecore.cli.version import cpu_name
    from densecore.kernels import threads

    topology = threads.read_topology()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu_name(),
        "cores": topology.num_cores,
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in ("numba", "llvmlite")}},
        "command": " ".join(["python -m bench.compare", *sys.argv[1:]]),
    }


def _version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


def _print_markdown(facts: dict[str, Any], heads: list[dict[str, Any]], results: list[Comparison]) -> None:
    versions = [f"{name} {version}" for name, version in facts["versions"].items()]
    engines = [f"{head['name']} {head['version']} ({head['features'].strip(' |')})" for head in heads]
    print(f"{facts['date']}, {facts['cpu']}, {facts['cores']} cores, {facts['system']}; {', '.join(versions)}")
    print(f"{'; '.join(engines)}\n\n    {facts['command']}")
    for result in results:
        flag = "" if result.nmse <= LARGEST_ERROR else " **(too much: the speeds mean nothing)**"
        print(f"\n### {result.model}\n\n{result.table()}\n")
        loads = [load for samples in result.loads.values() for load in samples]
        print(f"NMSE of the logits {result.nmse:.1e}{flag}; the idle engine used up to {result.busiest_idle:.2f} CPUs,")
        print(f"other processes {statistics.median(loads):.2f} (median) to {max(loads):.2f} (maximum).")


def model_path(text: str, folder: Path) -> Path:
    """A file, or the generated model that ``SHAPE:TYPE`` names."""
    shape, _, mix = text.partition(":")
    if shape in SHAPES and mix in MIXES:
        return make_model(SHAPES[shape], mix, folder)
    if not Path(text).exists():
        raise SystemExit(f"{text}: no such file, nor SHAPE:TYPE of {', '.join(SHAPES)} and {', '.join(MIXES)}")
    return Path(text).resolve()


def main() -> None:
    """Compare, and print tables or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="+", metavar="MODEL", help="GGUF file, or SHAPE:TYPE as bench.models makes it")
    parser.add_argument("--tests", default=TESTS, help=f"(default {TESTS})")
    parser.add_argument("--tokens", type=int, default=24, metavar="N", help="steps of a decode test (default 24)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of each engine (default: physical cores)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default 5)")
    parser.add_argument(
        "--tries", type=int, default=1, metavar="N", help="repetitions to wait for calm on a busy machine (default 1)"
    )
    parser.add_argument("--out", type=Path, default=default_folder(), metavar="FOLDER", help="of generated models")
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PATH", help="interpreter that has llama_cpp (default: this)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    args = parser.parse_args()
    try:
        tests = [Case.parse(name, args.tokens) for name in args.tests.split(",")]
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    results, heads = [], []
    from densecore.kernels import threads

    num_threads = args.threads or threads.default_thread_count()
    for text in args.model:
        path = model_path(text, args.out)
        result, heads = compare(path, tests, num_threads, args.rounds, args.tries, args.peer_python)
        results.append(result)
    facts = machine() | {"threads": num_threads}
    if args.json:
        comparisons = [
            dataclasses.asdict(result) | {"ratios": {test: result.ratios(test) for test in result.rates}}
            for result in results
        ]
        print(json.dumps({"machine": facts, "engines": heads, "results": comparisons}, indent=2))
    else:
        _print_markdown(facts, heads, results)


if __name__ == "__main__":
    main()
