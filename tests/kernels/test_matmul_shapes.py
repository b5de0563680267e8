"""Matrix products have the bits of `vec_dot`, element by element, in every shape."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from densecore.kernels import matmul
from densecore.kernels.cache import kernel
from densecore.kernels.formats import FORMATS, Q8, Format, vec_dot
from densecore.kernels.panel import STRETCH

from .blocks import (
    DIFFERENT,
    EXTREME_BYTES,
    as_file,
    extreme_rows,
    finite_halves,
    guarded,
    operand,
    random_blocks,
    same_bits,
)
from .matmul_outputs import outputs

ROOT = Path(__file__).parents[2]
ROWS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 130)
QUANTIZED = [name for name in DIFFERENT if FORMATS[name].group]
TOKENS = (1, 2, 3, 4, 5, 7, 15, 16, 17, 33)


@kernel
def by_elements(fmt, w, x, y, row_bytes, num_blocks):
    """The definition: each element by `vec_dot`."""
    for row in range(y.shape[1]):
        for token in range(y.shape[0]):
            y[token, row] = vec_dot(fmt, w, row * row_bytes, num_blocks, x, token)


def expected(fmt: Format, w: np.ndarray, x: Q8 | np.ndarray, num_tokens: int, n_out: int) -> np.ndarray:
    y = np.full((num_tokens, n_out), np.nan, np.float32)
    by_elements(fmt, w, x, y, w.size // n_out, w.size // n_out // fmt.type_size)
    return y


def product(fmt: Format, w: np.ndarray, x: Q8 | np.ndarray, num_tokens: int, n_out: int) -> np.ndarray:
    y = np.full((num_tokens, n_out), np.nan, np.float32)
    matmul.matmul(fmt, fmt.type_size, w, x, y)
    return y


def lengths(fmt: Format) -> tuple[int, ...]:
    """Numbers of blocks: one, part of a panel, exactly one panel, more."""
    if not fmt.group:
        return (1, 7, 8, 9, 172)
    whole = STRETCH // fmt.qk
    return tuple(sorted({1, 2, 3, whole, 7, whole + 1, 2 * whole + 1}))


@pytest.mark.parametrize("name", DIFFERENT)
def test_any_number_of_rows_and_blocks(name: str) -> None:
    fmt, rng = FORMATS[name], np.random.default_rng(1)
    for num_blocks in lengths(fmt):
        for n_out in ROWS:
            w = as_file(random_blocks(fmt, n_out * num_blocks, rng))
            x = operand(fmt, rng.standard_normal((3, num_blocks * fmt.qk)).astype(np.float32))
            assert same_bits(product(fmt, w, x, 3, n_out), expected(fmt, w, x, 3, n_out)), (num_blocks, n_out)


@pytest.mark.parametrize("name", DIFFERENT)
def test_any_number_of_tokens_alone_and_together(name: str) -> None:
    fmt, rng, n_out = FORMATS[name], np.random.default_rng(2), 45  # more than a panel of any instruction set
    num_blocks = lengths(fmt)[-1]
    w = as_file(random_blocks(fmt, n_out * num_blocks, rng))
    for num_tokens in (*TOKENS, 530):
        x = operand(fmt, rng.standard_normal((num_tokens, num_blocks * fmt.qk)).astype(np.float32))
        assert same_bits(product(fmt, w, x, num_tokens, n_out), expected(fmt, w, x, num_tokens, n_out)), num_tokens


@pytest.mark.parametrize("name", QUANTIZED)
def test_any_finite_scales(name: str) -> None:
    fmt, rng, n_out, num_blocks = FORMATS[name], np.random.default_rng(3), 40, 5
    w = as_file(random_blocks(fmt, n_out * num_blocks, rng, finite_halves))
    for num_tokens in (1, 7, 21):
        x = operand(fmt, (rng.standard_normal((num_tokens, num_blocks * fmt.qk)) * 1e-3).astype(np.float32))
        assert same_bits(product(fmt, w, x, num_tokens, n_out), expected(fmt, w, x, num_tokens, n_out))


@pytest.mark.parametrize("name", QUANTIZED)
def test_no_integer_saturates(name: str) -> None:
    fmt, num_blocks, n_out = FORMATS[name], 3, 5 * len(EXTREME_BYTES)
    rows = extreme_rows(fmt, n_out, num_blocks)
    ends = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1], [1, 1], [-1, -1], [1, -1]], np.float32)
    x = operand(fmt, np.tile(ends, (3, num_blocks * fmt.qk // 2)))
    assert set(np.unique(x.q)) == {-127, 127}
    w = as_file(rows)
    assert same_bits(product(fmt, w, x, len(x.q), n_out), expected(fmt, w, x, len(x.q), n_out))


@pytest.mark.parametrize("at_end", [False, True], ids=["from-page-start", "to-page-end"])
@pytest.mark.parametrize("name", DIFFERENT)
def test_nothing_outside_of_the_arrays_is_read_or_written(name: str, at_end: bool) -> None:
    fmt, rng, n_out, num_blocks = FORMATS[name], np.random.default_rng(4), 37, 3 if FORMATS[name].group else 13
    w = as_file(random_blocks(fmt, n_out * num_blocks, rng))
    for num_tokens in (1, 7, 21):
        x = operand(fmt, rng.standard_normal((num_tokens, num_blocks * fmt.qk)).astype(np.float32))
        inside = Q8(*(guarded(part, at_end=at_end) for part in x)) if isinstance(x, Q8) else guarded(x, at_end=at_end)
        y = guarded(np.full((num_tokens, n_out), np.nan, np.float32), at_end=at_end)
        matmul.matmul(fmt, fmt.type_size, guarded(w, at_end=at_end), inside, y)
        assert same_bits(y, expected(fmt, w, x, num_tokens, n_out))


def test_all_accesses_are_inside_when_bounds_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "checked.npz"
    names = ("F16", "Q4_K", "Q5_0")
    command = [sys.executable, "-m", "tests.kernels.matmul_outputs", str(file), *names]
    variables = os.environ | {"NUMBA_BOUNDSCHECK": "1"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(file) as checked:
        assert [name for name, y in outputs(names).items() if not same_bits(y, checked[name])] == []
