"""Speed of matrix products by format: ``python -m bench.kernels``.

One column is bound by memory: GB/s of weights, and the share of the read bandwidth. More columns are bound by
multiplications: GFLOP/s, two for each multiply-add, and the share of the multiply peak for the most columns. Bandwidth
and peaks are measured in the same run, on the same threads.
"""

from __future__ import annotations

import argparse

import numpy as np

from bench.random_blocks import random_weights
from densecore.benchmark import Roofs, markdown_table, measure_roofs
from densecore.benchmark.roofs import best_seconds
from densecore.config import EngineConfig
from densecore.engine.kernel_thread import kernel_thread
from densecore.engine.workers import WorkerThreads
from densecore.gguf import GGMLType
from densecore.kernels import matmul, quantize
from densecore.kernels.formats import FORMATS, Format
from densecore.kernels.plan import Plan
from densecore.kernels.threads import default_thread_count

N_IN = 4096
GEMV_MEGABYTES = 192  # of weights: far beyond the caches
GEMM_ROWS = 1024


def product_seconds(fmt: Format, n_out: int, columns: int, threads: WorkerThreads, repeats: int) -> float:
    """Best time of y (columns, n_out) = x W^T with random numbers; x is converted beforehand."""
    rng = np.random.default_rng(0)
    weights = random_weights(GGMLType(fmt.ggml_type), n_out * N_IN, N_IN**-0.5, rng)
    x = rng.standard_normal((columns, N_IN), np.float32)
    operand = quantize.quantize_q8_ref(x, fmt.group) if fmt.group else x
    plan = Plan()
    plan.add(matmul.matmul, fmt, fmt.type_size, weights, operand, np.empty((columns, n_out), np.float32))
    return kernel_thread.call(lambda: best_seconds(lambda: plan.run(threads.apply()), repeats))


def measure_format(fmt: Format, columns: list[int], threads: WorkerThreads, repeats: int) -> list[float]:
    """Bytes of weights a second with one column, then multiply-adds a second with each number of `columns`; in 1e9."""
    row_bytes = fmt.row_bytes(N_IN)
    n_out = (GEMV_MEGABYTES << 20) // row_bytes // 32 * 32
    rates = [n_out * row_bytes / product_seconds(fmt, n_out, 1, threads, repeats)]
    for count in columns:
        rates.append(GEMM_ROWS * N_IN * count / product_seconds(fmt, GEMM_ROWS, count, threads, repeats))
    return [rate / 1e9 for rate in rates]


def table_row(fmt: Format, rates: list[float], roofs: Roofs) -> list[str]:
    """A row of the table."""
    peak = roofs.int8_macs if fmt.group else roofs.float_macs
    read, *macs = rates
    shares = f"{100 * read / roofs.read:.0f} %", f"{100 * macs[-1] / peak:.0f} %"
    return [fmt.name, f"{read:.1f}", shares[0], *(f"{2 * rate:.0f}" for rate in macs), shares[1]]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("--formats", default=",".join(FORMATS), metavar="NAME,...", help="(default all)")
    parser.add_argument("--columns", default="8,32,128,512", metavar="N,...", help="(default 8,32,128,512)")
    parser.add_argument("--threads", type=int, default=default_thread_count(), metavar="N")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="the best one counts (default 5)")
    args = parser.parse_args()
    columns = [int(count) for count in args.columns.split(",")]
    threads, roofs = WorkerThreads(EngineConfig(threads=args.threads)), measure_roofs(args.threads)
    rates = {}
    for name in args.formats.split(","):
        rates[name] = measure_format(FORMATS[name], columns, threads, args.repeats)
        roofs = roofs.best(measure_roofs(args.threads))
    rows = [table_row(FORMATS[name], measured, roofs) for name, measured in rates.items()]
    print(
        f"{args.threads} threads; roofs: {roofs.read:.1f} GB/s, {2 * roofs.int8_macs:.0f} G int8 operations/s, ", end=""
    )
    print(f"{2 * roofs.float_macs:.0f} GFLOP/s\n")
    many = [f"{count} columns, GFLOP/s" for count in columns]
    print(markdown_table(["format", "1 column, GB/s", "of read", *many, "of peak"], rows))


if __name__ == "__main__":
    main()
