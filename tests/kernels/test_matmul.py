"""Matrix products: equal bits however the work is cut, on every instruction set, and only inside of their arrays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import pytest

from densecore.kernels import matmul
from densecore.kernels.formats import FORMATS, Format
from densecore.kernels.simd import ISA

from .blocks import as_file, operand, random_blocks, same_bits
from .matmul_outputs import outputs

ROOT = Path(__file__).parents[2]
NAMES = ("F16", "Q4_0", "Q6_K")  # one of each kind of operand: the formats themselves have their own tests
N_OUT, NUM_TOKENS = 7, 5


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    if request.param > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("this host has a single CPU")
    before = numba.get_num_threads()
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)


def problem(name: str) -> tuple[Format, np.ndarray, np.ndarray]:
    """A format, a matrix (N_OUT, n_in) of it, and x (NUM_TOKENS, n_in) float32."""
    fmt, rng = FORMATS[name], np.random.default_rng(7)
    num_blocks = 3 if fmt.group else 77
    w = as_file(random_blocks(fmt, N_OUT * num_blocks, rng))
    return fmt, w, rng.standard_normal((NUM_TOKENS, num_blocks * fmt.qk)).astype(np.float32)


def product(fmt: Format, w: np.ndarray, x: np.ndarray, num_tasks: int) -> np.ndarray:
    y = np.full((len(x), N_OUT), np.nan, np.float32)
    matmul.matmul(fmt, fmt.type_size, w, operand(fmt, x), y, num_tasks)
    return y


@pytest.mark.parametrize("name", NAMES)
def test_matmul_is_near_the_product_of_floats(name: str) -> None:
    fmt, w, x = problem(name)
    expected = np.empty((NUM_TOKENS, N_OUT), np.float32)
    matmul.matmul_ref(fmt, w, x, expected)
    error = np.abs(product(fmt, w, x, 1) - expected).max()
    assert error <= (0.02 if fmt.group else 1e-5) * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_equal_bits_for_any_number_of_tasks_and_threads(name: str, num_threads: int) -> None:
    fmt, w, x = problem(name)
    y = product(fmt, w, x, 1)
    for num_tasks in (2, 3, N_OUT, N_OUT + 4):
        assert same_bits(product(fmt, w, x, num_tasks), y)
    rows = np.full_like(y, np.nan)
    for first, last in ((0, 1), (1, 6), (6, 6), (6, N_OUT)):
        matmul.matmul_rows(fmt, fmt.type_size, w, operand(fmt, x), rows, first, last)
    assert same_bits(rows, y)


@pytest.mark.parametrize("name", NAMES)
def test_equal_bits_alone_and_in_a_batch(name: str) -> None:
    fmt, w, x = problem(name)
    y = product(fmt, w, x, 2)
    for token in range(NUM_TOKENS):
        assert same_bits(product(fmt, w, x[token : token + 1], 2), y[token : token + 1])
    assert product(fmt, w, x[:0], 2).shape == (0, N_OUT)


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


@pytest.mark.skipif(ISA == "portable", reason="runs on the portable instruction set already")
def test_portable_instructions_give_the_same_bits(tmp_path: Path) -> None:
    file = tmp_path / "portable.npz"
    done = run_python("-m", "tests.kernels.matmul_outputs", str(file), DENSECORE_ISA="portable")
    assert done.returncode == 0, done.stderr
    with np.load(file) as portable:
        assert sorted(portable) == sorted(FORMATS)
        differing = [name for name, y in outputs().items() if not same_bits(y, portable[name])]
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
    refused = "vector access is out of bounds"
    assert done.stdout.splitlines() == [
        *("0 inside", "1 inside"),
        *(f"{row} {refused}" for row in (2, 3, -1, 2**40)),
    ]
