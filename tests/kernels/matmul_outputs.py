"""Matrix products of every format with fixed inputs: what two instruction sets, and two processes, must agree on.

Run as ``python -m tests.kernels.matmul_outputs FILE.npz`` to write them to a file.
"""

from __future__ import annotations

import sys

import numpy as np

from densecore.kernels import matmul, quantize
from densecore.kernels.formats import FORMATS

from .blocks import as_file, random_blocks


def outputs() -> dict[str, np.ndarray]:
    """By name of format: y (2, 5) float32."""
    return {name: _output(name) for name in FORMATS}


def _output(name: str) -> np.ndarray:
    fmt, rng = FORMATS[name], np.random.default_rng(11)
    num_blocks = 1024 // fmt.qk + (3 if fmt.qk == 1 else 0)
    w = as_file(random_blocks(fmt, 5 * num_blocks, rng))
    x = rng.standard_normal((2, num_blocks * fmt.qk)).astype(np.float32)
    operand: quantize.Q8 | np.ndarray = x
    if fmt.group:
        operand = quantize.allocate_q8(*x.shape, fmt.group)
        quantize.quantize_q8(x, operand, fmt.group)
    y = np.empty((2, 5), np.float32)
    matmul.matmul(fmt, fmt.type_size, w, operand, y)
    return y


if __name__ == "__main__":
    np.savez(sys.argv[1], **outputs())
