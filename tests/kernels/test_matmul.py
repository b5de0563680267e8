"""Matrix products: equal bits however the work is cut, on every instruction set, and only inside of their arrays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from densecore.kernels import matmul
from densecore.kernels.formats import FORMATS, Format
from densecore.kernels.plan import Plan

from .blocks import DIFFERENT, as_file, operand, random_blocks, same_bits
from .instruction_sets import other_isas
from .matmul_outputs import outputs

ROOT = Path(__file__).parents[2]
NAMES = ("F16", "Q4_0", "Q6_K")  # one of each kind of operand: the formats themselves have their own tests
N_OUT, NUM_TOKENS = 7, 5


def problem(name: str) -> tuple[Format, np.ndarray, np.ndarray]:
    """A format, a matrix (N_OUT, n_in) of it, and x (NUM_TOKENS, n_in) float32."""
    fmt, rng = FORMATS[name], np.random.default_rng(7)
    num_blocks = 3 if fmt.group else 77
    w = as_file(random_blocks(fmt, N_OUT * num_blocks, rng))
    return fmt, w, rng.standard_normal((NUM_TOKENS, num_blocks * fmt.qk)).astype(np.float32)


def product(fmt: Format, w: np.ndarray, x: np.ndarray, num_workers: int = 2) -> np.ndarray:
    y = np.full((len(x), w.size // fmt.row_bytes(x.shape[1])), np.nan, np.float32)
    plan = Plan()
    plan.add(matmul.matmul, fmt, fmt.type_size, w, operand(fmt, x), y)
    plan.run(num_workers)
    return y


@pytest.mark.parametrize("name", NAMES)
def test_matmul_is_near_the_product_of_floats(name: str) -> None:
    fmt, w, x = problem(name)
    expected = x @ matmul.dequantize_ref(fmt, w, x.shape[1]).T
    error = np.abs(product(fmt, w, x) - expected).max()
    assert error <= (0.02 if fmt.group else 1e-5) * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_matmul_equals_its_twin(name: str) -> None:
    fmt, w, x = problem(name)
    expected = np.empty((NUM_TOKENS, N_OUT), np.float32)
    matmul.matmul_ref(fmt, fmt.type_size, w, operand(fmt, x), expected)
    assert same_bits(product(fmt, w, x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_equal_bits_for_any_number_of_workers_and_rows(name: str) -> None:
    fmt, w, x = problem(name)
    w = as_file(np.tile(w, 20))  # enough rows for several tasks
    y = product(fmt, w, x, 1)
    for num_workers in (2, 3, 8):
        assert same_bits(product(fmt, w, x, num_workers), y)
    for n_out in (1, 2, 31, 33, 65):
        assert same_bits(product(fmt, as_file(w[: n_out * fmt.row_bytes(x.shape[1])]), x), y[:, :n_out].copy())


@pytest.mark.parametrize("name", NAMES)
def test_equal_bits_alone_and_in_a_batch(name: str) -> None:
    fmt, w, x = problem(name)
    y = product(fmt, w, x)
    for token in range(NUM_TOKENS):
        assert same_bits(product(fmt, w, x[token : token + 1]), y[token : token + 1])
    assert product(fmt, w, x[:0]).shape == (0, N_OUT)


@pytest.mark.parametrize("name", NAMES)
def test_embed_takes_rows_in_any_order(name: str) -> None:
    fmt, w, x = problem(name)
    ids = np.array([6, 0, 3, 3], np.int32)
    out = np.full((ids.size, x.shape[1]), np.nan, np.float32)
    matmul.embed(fmt, fmt.qk, fmt.type_size, w, ids, out)
    assert same_bits(out, matmul.dequantize_ref(fmt, w, x.shape[1])[ids])


def run_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize("isa", other_isas())
def test_other_instruction_sets_give_the_same_bits(isa: str, tmp_path: Path) -> None:
    file = tmp_path / "other.npz"
    done = run_python("-m", "tests.kernels.matmul_outputs", str(file), DENSECORE_ISA=isa)
    assert done.returncode == 0, done.stderr
    with np.load(file) as other:
        assert sorted(other) == DIFFERENT
        differing = [name for name, y in outputs().items() if not same_bits(y, other[name])]
    assert differing == []


OUT_OF_BOUNDS = """
import numpy as np
from densecore.kernels import matmul
from densecore.kernels.formats import FORMATS

fmt = FORMATS["Q4_0"]
w = np.zeros(3 * fmt.type_size - 1, np.uint8)  # one byte less than three rows
w.flags.writeable = False
out = np.zeros((1, fmt.qk), np.float32)
for row in 0, 1, 2, 3, -1, 2**40:
    try:
        matmul.embed(fmt, fmt.qk, fmt.type_size, w, np.array([row]), out)
        print(row, "inside")
    except IndexError as error:
        print(row, error)
"""


def test_bounds_are_checked_when_numba_is_told_so() -> None:
    done = run_python("-c", OUT_OF_BOUNDS, NUMBA_BOUNDSCHECK="1")
    assert done.returncode == 0, done.stderr
    refused = "densecore.kernels.matmul.embed went outside of an array"
    assert done.stdout.splitlines() == [
        *("0 inside", "1 inside"),
        *(f"{row} {refused}" for row in (2, 3, -1, 2**40)),
    ]
