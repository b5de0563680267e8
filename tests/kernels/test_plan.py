"""Plans: operations by address, any number of workers, arguments of every kind."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

from densecore.kernels.plan import Plan, operation, row_operation


class Pair(NamedTuple):
    a: np.ndarray
    b: np.ndarray


def mix_ref(x, pair, offset, factor, out):
    out[:] = (x + pair.a * pair.b[:, None] + offset) * factor


@row_operation(twin=mix_ref)
def mix(x, pair, offset, factor, out, first, last):
    for row in range(first, last):
        for k in range(x.shape[1]):
            out[row, k] = (x[row, k] + pair.a[row, k] * pair.b[row] + offset) * factor


@operation(tasks=lambda seen: seen.shape[0], twin=lambda seen: None)
def count_visits(seen, task, num_tasks):
    seen[task, 0] += 1
    seen[task, 1] = num_tasks


def add_one_ref(x):
    x += 1


@operation(tasks=lambda x: x.shape[0], twin=add_one_ref)
def add_one(x, task, num_tasks):
    for k in range(x.shape[1]):
        x[task, k] += 1


def arguments(rows=50, n=700):
    rng = np.random.default_rng(rows)
    x, a = rng.standard_normal((2, rows, n)).astype(np.float32)
    b = rng.integers(0, 9, rows).astype(np.int16)
    b.flags.writeable = False
    return x, Pair(a, b), 3, np.float32(0.5), np.empty_like(x)


def test_arguments_of_every_kind_reach_the_operation():
    given = arguments()
    expected = np.empty_like(given[-1])
    mix_ref(*given[:-1], expected)
    mix(*given)
    assert np.allclose(given[-1], expected, rtol=1e-6)


@pytest.mark.parametrize("num_workers", [1, 2, 3, 8])
@pytest.mark.parametrize("num_tasks", [1, 2, 7, 1000])
def test_each_task_is_done_once(num_workers, num_tasks):
    seen = np.zeros((num_tasks, 2), np.int64)
    plan = Plan()
    for _ in range(5):
        plan.add(count_visits, seen)
    plan.run(num_workers)
    assert (seen == [5, num_tasks]).all()


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_operations_are_in_order(num_workers):
    """Each reads what all tasks of the one before wrote: doubling through a transposed view of the tasks."""
    x, y = np.ones((64, 32), np.float32), np.zeros((64, 32), np.float32)
    pair = Pair(np.zeros_like(x), np.zeros(64, np.int16))
    plan = Plan()
    for _ in range(50):
        plan.add(mix, x, pair, 0, np.float32(1), y)
        plan.add(add_one, y)
        plan.add(mix, y, pair, 0, np.float32(1), x)
    plan.run(num_workers)
    assert (x == 51).all()


def test_a_plan_reads_contents_at_every_run():
    x = np.zeros((4, 3), np.float32)
    plan = Plan()
    plan.add(add_one, x)
    plan.run(2)
    x[:] = 10
    plan.run(2)
    assert (x == 11).all()
    assert len(plan) == 1


def test_an_empty_plan_does_nothing():
    Plan().run(2)


def test_strided_arrays_are_refused():
    with pytest.raises(ValueError, match="C-contiguous"):
        add_one(np.zeros((4, 8), np.float32)[:, ::2])


BOUNDS = """
import numpy as np
from tests.kernels.test_plan import add_one, operation
@operation(tasks=lambda x: 2, twin=None)
def overrun(x, task, num_tasks):
    x[x.size] = 1
try:
    overrun(np.zeros(4, np.float32))
except IndexError as error:
    assert "overrun went outside" in str(error), error
else:
    raise SystemExit("not caught")
"""


def test_bounds_checks_reach_python():
    import os

    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1"}
    result = subprocess.run(
        [sys.executable, "-c", BOUNDS], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_twins_stand_in_without_the_compiler():
    import os

    code = "import numpy as np; from tests.kernels.test_plan import *; x = np.zeros((2, 2)); add_one(x); assert x.all()"
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
