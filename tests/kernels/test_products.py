"""The small product of attention against numpy, and bit by bit against itself one row and one vector at a time."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from densecore.kernels.attention_products import MOST_ROWS, multiply
from densecore.kernels.cache import inlined, kernel, outlined
from densecore.kernels.simd_products import matrix, moved, scaled_columns, scaled_rows

STRIDE = 96


@kernel
def run(x, y, count, out, num_rows, columns, at):
    """Columns `at` and so on of out += x @ y."""
    left, right, sums = matrix(x, 0, STRIDE), matrix(y, 0, STRIDE), matrix(out, 0, STRIDE)
    multiply(left, moved(right, 0, at), right, count, moved(sums, 0, at), num_rows, columns)


def operands(dtype, num_rows: int, count: int):
    rng = np.random.default_rng(num_rows)
    x, y, out = (rng.standard_normal((n, STRIDE), np.float32) for n in (num_rows, count, num_rows))
    return x, y.astype(dtype), out


@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["f16", "f32"])
@pytest.mark.parametrize("num_rows", range(1, 2 * MOST_ROWS + 4))
@pytest.mark.parametrize(("count", "columns"), [(64, 64), (33, 88), (1, 8), (0, 16)])
def test_multiply(dtype, num_rows, count, columns):
    x, y, out = operands(dtype, num_rows, count)
    stored = y.view(np.uint16) if dtype == np.float16 else y
    result, by_vectors = out.copy(), out.copy()
    run(x, stored, count, result, num_rows, columns, 0)
    expected = out.astype(np.float64)
    expected[:, :columns] += x[:, :count].astype(np.float64) @ y[:, :columns].astype(np.float64)
    assert np.allclose(result, expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(result[:, columns:], out[:, columns:])
    for row in range(num_rows):
        for at in range(0, columns, 8):
            run(x[row:].copy(), stored, count, by_vectors[row:], 1, 8, at)
    assert np.array_equal(result, by_vectors)


@kernel
def run_scaled_columns(x, y, count, out, num_rows, columns, scales):
    right = scaled_columns(y, 0, STRIDE, scales, 0)
    multiply(matrix(x, 0, STRIDE), right, matrix(y, 0, STRIDE), count, matrix(out, 0, STRIDE), num_rows, columns)


@kernel
def run_scaled_rows(x, y, count, out, num_rows, columns, scales):
    right = scaled_rows(y, 0, y.shape[1], scales, 0)
    multiply(matrix(x, 0, STRIDE), right, matrix(y, 0, STRIDE), count, matrix(out, 0, STRIDE), num_rows, columns)


@pytest.mark.parametrize("by_rows", [False, True], ids=["columns", "rows"])
@pytest.mark.parametrize("num_rows", range(1, MOST_ROWS + 2))
@pytest.mark.parametrize(("count", "columns"), [(64, 64), (33, 96), (1, 32)])
def test_codes_with_scales(by_rows, num_rows, count, columns):
    """The same bits as of the floats that they stand for."""
    rng = np.random.default_rng(num_rows)
    x, _, out = operands(np.float32, num_rows, count)
    codes = rng.integers(-127, 128, (96, STRIDE), np.int8)
    if by_rows:  # (96, STRIDE / 32)
        scales = rng.standard_normal((96, STRIDE // 32)).astype(np.float16)
        y, at, stored, run_it = np.repeat(scales, 32, axis=1), STRIDE, [codes, scales.view(np.int8)], run_scaled_rows
        array = np.concatenate(stored, axis=1)
    else:  # (96 / 32, STRIDE)
        scales = rng.standard_normal((3, STRIDE)).astype(np.float16)
        y, at, run_it = np.repeat(scales, 32, axis=0), 96 * STRIDE, run_scaled_columns
        array = np.concatenate([codes, scales.view(np.int8).reshape(6, STRIDE)])
    expected, result = out.copy(), out.copy()
    run(x, y.astype(np.float32) * codes, count, expected, num_rows, columns, 0)
    run_it(x, array, count, result, num_rows, columns, at)
    assert np.array_equal(result, expected)


@pytest.mark.parametrize(("decorate", "stays"), [(outlined, True), (inlined, False)])
def test_an_outlined_helper_stays_a_function(decorate, stays):
    @decorate
    def third_power(a):
        return a * a * a

    compiled = numba.njit(lambda a: third_power(a) + third_power(a + 1))
    assert compiled(2.0) == 8 + 27
    (code,) = compiled.inspect_asm().values()
    bodies = [line for line in code.splitlines() if "third_power" in line and line.endswith(":")]
    assert len(bodies) == stays
