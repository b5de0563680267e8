"""Time of drawing one token: ``python -m bench.sampling``."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from densecore.config import GenerationConfig

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "top_k=40 top_p=0.95 rep=1.1": {"top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1},
    "top_p=0.95": {"top_p": 0.95},
    "min_p=0.05": {"min_p": 0.05},
    "temperature alone": {},
    "top_k=2000": {"top_k": 2000},
    "top_p=0.95 min_p=0.01": {"top_p": 0.95, "min_p": 0.01},
    "greedy ignore_eos": {"temperature": 0.0, "ignore_eos": True},  # the cost of a copy
    "greedy logprobs 5": {"temperature": 0.0, "logprobs": True, "top_logprobs": 5},
    "greedy dry": {"temperature": 0.0, "dry_multiplier": 0.8},
    "top_k=40 xtc": {"top_k": 40, "xtc_probability": 0.5},
    "top_n_sigma=1": {"top_n_sigma": 1.0},
    "typical_p=0.9": {"typical_p": 0.9},
    "mirostat": {"mirostat": 2},
}
OFF = {"temperature": 0.8, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "seed": 1}


def random_logits(n_vocab: int, spread: float, count: int = 8) -> np.ndarray:
    """Normal logits (count, n_vocab): different each time, as a model's are, so that no branch is learnt by heart."""
    return np.random.default_rng(0).normal(0, spread, (count, n_vocab)).astype(np.float32)


def median_time(changes: dict, logits: np.ndarray, repeats: int) -> float:
    """Median seconds of one `Sampler.sample` after a prompt of 1000 tokens."""
    from densecore.sampling import Sampler, Vocabulary

    n_vocab = logits.shape[1]
    config = GenerationConfig(**(OFF | changes))
    sampler = Sampler(config, n_vocab, range(min(1000, n_vocab)), vocabulary=Vocabulary(eog_ids=frozenset({0, 1})))
    times = []
    for i in range(repeats + 1):  # the first call may have to compile
        start = time.perf_counter()
        sampler.sample(logits[i % len(logits)])
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def median_step_time(changes: dict, logits: np.ndarray, repeats: int, num_workers: int) -> float:
    """Median seconds of one token for each row of logits, all at once, after prompts of 1000 tokens."""
    from densecore.kernels.block_masses import block_masses
    from densecore.kernels.peaks import block_peaks, num_blocks
    from densecore.kernels.sampling import Known
    from densecore.sampling import Sampler, sample_batch

    n_vocab = logits.shape[1]
    config = GenerationConfig(**(OFF | changes))
    samplers = [Sampler(config, n_vocab, range(min(1000, n_vocab))) for _ in logits]
    blocks = len(logits), num_blocks(n_vocab)
    known = Known(np.empty(blocks, np.int32), np.empty(blocks, np.float32))  # what a model's step leaves
    block_peaks(logits, known.peaks)
    block_masses(logits, known.peaks, np.array([s.mass_scale for s in samplers], np.float32), known.masses)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        sample_batch(samplers, logits, num_workers, known)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def main() -> None:
    """Print the median time of each configuration, in microseconds, for logits of several spreads."""
    parser = argparse.ArgumentParser(prog="python -m bench.sampling", description=main.__doc__)
    parser.add_argument("--vocab", type=int, default=151936, help="tokens in the vocabulary (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=100, help="draws to time for each figure (default: %(default)s)")
    parser.add_argument(
        "--spreads",
        type=float,
        nargs="+",
        default=[1.0, 3.0, 8.0],
        help="standard deviations of the logits: 1 is nearly flat, trained models are near 3 (default: 1 3 8)",
    )
    parser.add_argument("--rows", type=int, default=32, help="sequences of a step (default: %(default)s)")
    options = parser.parse_args()
    print(
        f"{'median us at ' + str(options.vocab) + ' tokens':32}" + "".join(f"  spread {s:<4g}" for s in options.spreads)
    )
    for name, changes in CONFIGURATIONS.items():
        logits = (random_logits(options.vocab, spread) for spread in options.spreads)
        times = (median_time(changes, each, options.repeats) for each in logits)
        print(f"{name:32}" + "".join(f"{seconds * 1e6:12.0f}" for seconds in times))
    print_steps(options.vocab, options.rows, options.repeats, options.spreads)


COMPILED = (*list(CONFIGURATIONS)[:5], "top_p=0.95 min_p=0.01", "typical_p=0.9", "mirostat")


def print_steps(n_vocab: int, rows: int, repeats: int, spreads: list[float]) -> None:
    """What is compiled, for all sequences of a step at once, whose peaks and masses are known, on all threads."""
    from densecore.kernels.threads import default_thread_count

    num_threads = default_thread_count()
    title = f"median us of {rows} rows, {num_threads} thread(s)"
    print(f"\n{title:32}" + "".join(f"  spread {spread:<4g}" for spread in spreads))
    for name in COMPILED:
        logits = (random_logits(n_vocab, spread, rows) for spread in spreads)
        times = (median_step_time(CONFIGURATIONS[name], each, repeats, num_threads) for each in logits)
        print(f"{name:32}" + "".join(f"{seconds * 1e6:13.0f}" for seconds in times))


if __name__ == "__main__":
    main()
