"""Matrix products of every format with fixed inputs: what two instruction sets, and two processes, must agree on.

Run as ``python -m tests.kernels.matmul_outputs FILE.npz [FORMAT ...]`` to write them to a file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np

from densecore.kernels import matmul, quantize
from densecore.kernels.formats import FORMATS

from .blocks import DIFFERENT, as_file, random_blocks

NUM_TOKENS, N_OUT = 21, 37


def outputs(names: Iterable[str] = DIFFERENT) -> dict[str, np.ndarray]:
    """By name of format: y (NUM_TOKENS, N_OUT) float32."""
    return {name: _output(name) for name in names}


def _output(name: str) -> np.ndarray:
    fmt, rng = FORMATS[name], np.random.default_rng(11)
    num_blocks = 1024 // fmt.qk + (3 if fmt.qk == 1 else 0)
    w = as_file(random_blocks(fmt, N_OUT * num_blocks, rng))
    x = rng.standard_normal((NUM_TOKENS, num_blocks * fmt.qk)).astype(np.float32)
    operand: quantize.Q8 | np.ndarray = x
    if fmt.group:
        operand = quantize.allocate_q8(*x.shape, fmt.group)
        quantize.quantize_q8(x, operand, fmt.group)
    y = np.empty((NUM_TOKENS, N_OUT), np.float32)
    matmul.matmul(fmt, fmt.type_size, w, operand, y)
    return y


if __name__ == "__main__":
    np.savez(sys.argv[1], **outputs(sys.argv[2:] or DIFFERENT))
