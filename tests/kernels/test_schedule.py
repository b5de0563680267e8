"""Which operations of a plan share a stage, and that sharing never changes what comes out."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.kernels import activation, norm, quantize
from densecore.kernels.plan import Plan, operation, range_operation, row_operation
from densecore.kernels.schedule import Cut, Entry, place

TOKENS, WIDTH = 24, 960  # many enough for several pieces


def accumulate_ref(x):
    np.cumsum(x, axis=1, out=x)


@row_operation(twin=accumulate_ref, elements=512)
def accumulate(x, first, last):
    """Each element depends on all before it in its row."""
    for row in range(first, last):
        for k in range(1, x.shape[1]):
            x[row, k] += x[row, k - 1]


def subtract_ref(x, y):
    x -= y


@row_operation(twin=subtract_ref, elements=2048)
def subtract(x, y, first, last):
    for row in range(first, last):
        for k in range(x.shape[1]):
            x[row, k] -= y[row, k]


def mirror_ref(x, out):
    out.reshape(-1)[:] = x.reshape(-1)[::-1]


@operation(tasks=lambda x, out: 5, twin=mirror_ref)
def mirror(x, out, task, num_tasks):
    """Each piece reads what is farthest from what it writes."""
    size = x.size
    for i in range(size * task // num_tasks, size * (task + 1) // num_tasks):
        out.flat[size - 1 - i] = x.flat[i]


def mix_ref(x, out):
    out[:] = x[::-1] ^ x.sum(0)


@range_operation(tasks=lambda x, out: x.shape[0], together=lambda x, out: 3, twin=mix_ref)
def mix(x, out, first, last):
    """Each piece reads all of x."""
    for row in range(first, last):
        for k in range(x.shape[1]):
            total = 0
            for other in range(x.shape[0]):
                total += x[other, k]
            out[row, k] = x[x.shape[0] - 1 - row, k] ^ total


def random_calls(rng, arrays):
    """Operations on the same few arrays, with rows of several lengths: nearly each needs what the one before wrote."""
    for _ in range(40):
        a, b = (arrays[i] for i in rng.permutation(len(arrays))[:2])
        tokens = TOKENS * int(rng.choice([1, 2, 5]))
        a, b = a.reshape(tokens, -1), b.reshape(tokens, -1)
        kind = rng.choice(["accumulate", "subtract", "mirror", "mix"], p=[0.4, 0.3, 0.15, 0.15])
        yield {
            "accumulate": (accumulate, a),
            "subtract": (subtract, a, b),
            "mirror": (mirror, a, b),
            "mix": (mix, a, b),
        }[kind]


def sum_rows_ref(x, sums):
    sums[:] = x.sum(1)


@range_operation(tasks=lambda x, sums: x.shape[0], together=lambda x, sums: 1000, twin=sum_rows_ref)
def sum_rows(x, sums, first, last):
    """Each piece needs one row, which a piece of another operation may have made."""
    for row in range(first, last):
        sums[row] = 0
        for k in range(x.shape[1]):
            sums[row] += x[row, k]


@pytest.mark.parametrize("num_workers", [1, 2, 5])
@pytest.mark.parametrize("num_rows", [1, 2, 50])
def test_what_follows_piece_by_piece_shares_a_stage(num_workers, num_rows):
    x, out = np.arange(2 * num_rows * 8).reshape(2, num_rows, 8)
    sums, expected = np.zeros((2, num_rows), np.int64)
    plan = Plan()
    plan.add(mix, x, out)
    plan.add(sum_rows, out, sums, follows=True)
    plan.add(accumulate, out)  # the end of the chain
    for _ in range(2):
        plan.run(num_workers)
        mix_ref(x, out)
        sum_rows_ref(out, expected)
        assert np.array_equal(sums, expected)
    assert len(plan.stages) == (2 if num_rows > 1 else 1)


def test_what_has_other_pieces_waits():
    """Half the rows cannot follow; nor can what is cut in rows."""
    x, out = np.arange(2 * 10 * 8).reshape(2, 10, 8)
    plan = Plan()
    plan.add(mix, x, out)
    plan.add(sum_rows, out[:5], np.zeros(5, np.int64), follows=True)
    plan.add(accumulate, out, follows=True)
    assert len(plan.stages) == 3


@pytest.mark.parametrize("num_workers", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_any_plan_does_what_its_operations_do_one_by_one(num_workers, seed):
    arrays = [np.random.default_rng(i).integers(0, 99, TOKENS * WIDTH) for i in range(3)]
    expected = [array.copy() for array in arrays]
    plan = Plan()
    for op, *arguments in random_calls(np.random.default_rng(seed), arrays):
        plan.add(op, *arguments)
    for op, *arguments in random_calls(np.random.default_rng(seed), expected):
        op.twin(*arguments)
    assert len(plan.stages) < len(plan)  # some did share
    plan.run(num_workers)
    for array, other in zip(arrays, expected, strict=True):
        assert np.array_equal(array, other)


def stages_of(*calls):
    plan = Plan()
    for op, *arguments in calls:
        plan.add(op, *arguments)
    return len(plan.stages)


def layer_buffers(tokens, dim):
    x, y, out = np.zeros((3, tokens, dim), np.float32)
    rows = out.reshape(-1, 256)
    q8 = quantize.allocate_q8(*rows.shape, 32)
    return x, y, out, rows, q8


@pytest.mark.parametrize("tokens", [1, 9, 500])
def test_addition_norm_and_conversion_are_one_stage(tokens):
    x, y, out, rows, q8 = layer_buffers(tokens, 1024)
    calls = [
        (activation.add, x, y),
        (norm.rms_norm, x, np.ones(1024, np.float32), np.float32(1e-6), out),
        (quantize.quantize_q8, rows, q8, 32),
    ]
    assert stages_of(*calls) == 1
    assert stages_of(calls[0], (mirror, x, y), *calls[1:]) == 3  # what is cut otherwise has to wait, and lets wait


def test_a_chain_does_not_take_away_pieces():
    """One row of norm and many of conversion: better wait once than leave all to one worker."""
    x, _, out, rows, q8 = layer_buffers(1, 16384)
    weight = np.ones(16384, np.float32)
    calls = [(norm.rms_norm, x, weight, np.float32(1e-6), out), (quantize.quantize_q8, rows, q8, 32)]
    assert stages_of(*calls) == 2


def test_what_runs_beside_shares_a_stage():
    x, *outs = np.arange(4 * TOKENS * 8).reshape(4, TOKENS, 8)
    plan = Plan()
    plan.add(accumulate, x)  # in one piece, as small as it is
    for i, out in enumerate(outs):
        plan.add(mix, x, out, beside=i > 0)
    plan.add(accumulate, outs[0])
    assert len(plan.stages) == 3
    assert len(plan.only(lambda op: op is mix).stages) == 1


def test_nothing_runs_beside_what_it_needs():
    """The second of three small operations joins the first one's chain; the third must not run beside that."""
    entries = [Entry(name, 0, np.zeros(1, np.int64), Cut.RANGES, 1, 1, 1) for name in "abc"]
    stages = []
    for entry, beside in zip(entries, (False, False, True), strict=True):
        place(entry, stages, beside=beside)
    assert [[part.entries for part in stage] for stage in stages] == [[entries]]


@operation(tasks=lambda seen, *_: seen.shape[0], twin=None)
def count_tasks(seen, task, num_tasks):
    seen[task, 0] += 1
    seen[task, 1] = num_tasks


def test_each_piece_of_all_that_runs_beside_is_done_once():
    x = np.arange(7 * 8).reshape(7, 8)
    for num_workers in (1, 2, 3, 8):
        seen, outs = [np.zeros((n, 2), np.int64) for n in (3, 1, 11)], np.zeros((2, 7, 8), np.int64)
        plan = Plan()
        for i, array in enumerate(seen):
            plan.add(count_tasks, array, beside=i > 0)
        for out in outs:
            plan.add(mix, x, out, beside=True)
        assert len(plan.stages) == 1
        plan.run(num_workers)
        assert all((array == [1, len(array)]).all() for array in seen)
        expected = np.empty_like(x)
        mix_ref(x, expected)
        assert (outs == expected).all()


@range_operation(tasks=lambda seen, most, sizes: seen.size, together=lambda seen, most, sizes: most, twin=None)
def count_ranges(seen, most, sizes, first, last):
    sizes[first] = last - first
    for i in range(first, last):
        seen[i] += 1


@pytest.mark.parametrize("num_workers", [1, 2, 3, 200])
@pytest.mark.parametrize("most", [1, 7, 1000])
def test_ranges_cover_everything_once_and_are_not_too_long(num_workers, most):
    seen, sizes = np.zeros((2, 150), np.int64)
    plan = Plan()
    plan.add(count_ranges, seen, most, sizes)
    plan.run(num_workers)
    assert (seen == 1).all()
    assert sizes.max() == max(1, min(most, 150 // num_workers))


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_ranges_end_where_another_operation_begins(num_workers):
    counts, sizes = np.zeros((3, 40), np.int64), np.zeros(40, np.int64)
    plan = Plan()
    for seen in counts:
        plan.add(count_ranges, seen[:17], 10, sizes, beside=True)
    plan.run(num_workers)
    assert (counts[:, :17] == 1).all()
    assert not counts[:, 17:].any()


def test_an_operation_without_pieces_is_left_out():
    x, nothing = np.arange(8.0, dtype=np.float32).reshape(2, 4), np.zeros((0, 4), np.float32)
    plan = Plan()
    plan.add(activation.add, nothing, nothing)
    plan.add(activation.add, x, x)
    plan.run(2)
    assert np.array_equal(x.reshape(-1), 2 * np.arange(8))
