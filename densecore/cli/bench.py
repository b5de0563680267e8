"""``densecore bench``: how fast a model is on this machine."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densecore.cli.failures import say
from densecore.cli.options import model_path, positive_integer
from densecore.cli.parser import add_verb, wrong_usage
from densecore.cli.session import CompileNotice
from densecore.config import KV_CACHE_DTYPES, PINNING_POLICIES, EngineConfig
from densecore.exceptions import InvalidConfigError

if TYPE_CHECKING:
    from densecore.benchmark import Result, StepTimer

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore bench model.gguf
  densecore bench model.gguf -p 128,512 -n 32 -d 0,4096 -t 1,2     every combination
  densecore bench model.gguf -o json | jq '.[].avg_ts'
  densecore bench model.gguf --roofline roofline.png               how near the kernels come to what the CPU can do

Prompts (pp) and generation (tg) are timed apart, with random tokens, as llama-bench does; the first run of each
test, which may have to compile, does not count. JSON and CSV have llama-bench's field names.
"""


def _counts(text: str) -> list[int]:
    """An argument's type: whole numbers from 0, with commas between them."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, such as 128,512")
    return [int(part) for part in parts]


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Measure how fast a model is", EXAMPLES)
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="GGUF file, or owner/name:Q4_K_M on the Hub (default: built in)"
    )
    for flags, default, text in (
        (("-p", "--n-prompt"), 512, "tokens of a prompt; 0 for none"),
        (("-n", "--n-gen"), 128, "tokens to generate; 0 for none"),
        (("-d", "--n-depth"), 0, "tokens that are in the cache before"),
    ):
        parser.add_argument(*flags, type=_counts, default=[default], metavar="N,...", help=f"{text} ({default})")
    parser.add_argument("-t", "--threads", type=_counts, default=[0], metavar="N,...", help="(physical cores)")
    parser.add_argument("-r", "--repetitions", type=positive_integer, default=5, metavar="N", help="of each test (5)")
    parser.add_argument("-o", "--output", choices=("md", "csv", "json"), default="md", help="form of the results (md)")
    parser.add_argument("--kv-cache-dtype", choices=KV_CACHE_DTYPES, default="f16", help="of keys and values (f16)")
    parser.add_argument("--pinning", choices=PINNING_POLICIES, default="scatter", help="where threads run (scatter)")
    parser.add_argument("--numa-node", type=int, default=-1, metavar="N", help="on this NUMA node alone (-1: on all)")
    parser.add_argument(
        "--roofline",
        nargs="?",
        const="",
        metavar="PNG",
        help="measure the machine's limits, and how near each kernel comes, instead; also as a picture",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Measure and print; the exit status."""
    if not any(args.n_prompt) and not any(args.n_gen):
        wrong_usage(args, "nothing to measure: both -p and -n are 0")
    config = _config(args)
    if args.roofline:
        from densecore.benchmark.plot import require_matplotlib

        require_matplotlib()
    from densecore.benchmark import StepTimer
    from densecore.kernels.cache import compile_progress

    notice = CompileNotice(sys.stderr, quiet=args.quiet)
    try:
        with compile_progress(notice), StepTimer(model_path(args), config) as timer:
            if args.roofline is not None:
                _print_roofline(args, timer, notice)
            else:
                _print_results(args, list(_measure(args, timer, notice)))
    finally:
        notice.hide()
    return 0


def _config(args: argparse.Namespace) -> EngineConfig:
    """The engine's settings, with the first number of threads; a wrong one ends with status 2."""
    try:
        configs = [
            EngineConfig(
                threads=threads,
                kv_cache_dtype=args.kv_cache_dtype,
                pinning=args.pinning,
                numa_node_id=args.numa_node,
            )
            for threads in args.threads
        ]
    except InvalidConfigError as error:
        wrong_usage(args, str(error))
    return configs[0]


def _measure(args: argparse.Namespace, timer: StepTimer, notice: CompileNotice) -> Iterator[Result]:
    """Every combination, prompts before generation; one that was there before is left out."""
    shared = _run_fields(timer)
    done = set()
    for threads, depth in itertools.product(args.threads, args.n_depth):
        timer.set_threads(threads)
        tests = [(n, 0) for n in args.n_prompt if n] + [(0, n) for n in args.n_gen if n]
        sequences = timer.sequences(depth=depth, room=max(map(max, tests)))
        for n_prompt, n_gen in tests:
            key = timer.num_threads, depth, n_prompt, n_gen
            if key in done:
                continue
            done.add(key)
            yield _test(args, timer, sequences, n_prompt, n_gen, shared)
            notice.hide()
            notice.allow()


def _test(
    args: argparse.Namespace, timer: StepTimer, sequences: Any, n_prompt: int, n_gen: int, shared: dict[str, Any]
) -> Result:
    from densecore.benchmark import Result

    measure, count = (sequences.prefill, n_prompt) if n_prompt else (sequences.decode, n_gen)
    measure(n_prompt or min(n_gen, 2))  # compiles what is missing
    samples = [measure(count) for _ in range(args.repetitions)]
    result = Result(n_prompt, n_gen, sequences.depth, timer.num_threads, samples, shared)
    if not args.quiet:
        say(f"{result.name}, {result.n_threads} threads: {max(result.samples_ts):.1f} t/s at best")
    return result


def _run_fields(timer: StepTimer) -> dict[str, Any]:
    """What all tests of this run share, under llama-bench's names."""
    import densecore
    from densecore.benchmark import model_fields
    from densecore.cli.version import cpu_name
    from densecore.kernels import simd

    config = timer.config
    return {
        "build_version": densecore.__version__,
        "cpu_info": cpu_name(),
        "backends": f"CPU ({simd.ISA})",
        **model_fields(timer.file),
        "n_batch": config.max_num_batched_tokens,
        "type_k": config.kv_cache_dtype,
        "type_v": config.kv_cache_dtype,
        "pinning": config.pinning,
    }


def _print_results(args: argparse.Namespace, results: list[Result]) -> None:
    from densecore.benchmark import as_csv, as_json, as_markdown

    print({"md": as_markdown, "csv": as_csv, "json": as_json}[args.output](results))


def _print_roofline(args: argparse.Namespace, timer: StepTimer, notice: CompileNotice) -> None:
    import json

    from densecore.benchmark import measure_kernels, measure_roofs, roofline_table

    most = timer.num_threads
    roofs = [measure_roofs(n) for n in sorted({*(2**i for i in range(most.bit_length()) if 2**i < most), most})]
    num_tokens, depth = max(args.n_prompt) or 512, max(args.n_depth)
    measurements = measure_kernels(timer, roofs[-1], num_tokens, depth)
    roofs[-1] = measurements[0].roofs
    notice.hide()
    if args.output == "json":
        print(json.dumps(_roofline_fields(roofs, measurements), indent=2))
    else:
        print(roofline_table(roofs, measurements))
    if args.roofline:
        from densecore.benchmark.plot import plot_roofline

        plot_roofline(Path(args.roofline), measurements, f"{timer.file.path.name}, {most} threads")


def _roofline_fields(roofs: Any, measurements: Any) -> dict[str, Any]:
    import dataclasses

    kernels = [
        {k: v for k, v in dataclasses.asdict(m).items() if k != "roofs"} | {"bound": m.bound, "share": m.share}
        for m in measurements
    ]
    return {"roofs": [dataclasses.asdict(roof) for roof in roofs], "kernels": kernels}
