"""The small product of attention against numpy, and bit by bit against itself one row and one vector at a time."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from densecore.kernels.attention_products import MOST_ROWS, multiply
from densecore.kernels.cache import inlined, kernel, outlined
from densecore.kernels.simd_products import matrix, moved

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
