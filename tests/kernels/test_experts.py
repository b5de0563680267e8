"""Kernels of experts: routing, products by groups, gates and copies; each against its twin, or against `matmul`."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.kernels import columns, gates, grouped, matmul, routing
from densecore.kernels.formats import FORMATS, Q8
from densecore.kernels.plan import Plan

from .blocks import as_file, operand, random_blocks, same_bits

N_EXPERTS, N_USED = 12, 3
NO_BIAS = np.empty(0, np.float32)


def rule(gating=routing.SOFTMAX, normalise=1, scale=1.0, n_groups=1, n_groups_used=1) -> routing.Rule:
    return routing.Rule(N_USED, gating, normalise, np.float32(scale), n_groups, n_groups_used)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def route(logits: np.ndarray, bias: np.ndarray, how: routing.Rule, function=routing.route):
    experts, weights = np.full((len(logits), N_USED), -1, np.int32), np.full((len(logits), N_USED), np.nan, np.float32)
    function(logits, bias, how, experts, weights)
    return experts, weights


RULES = {
    "mixtral": rule(),
    "qwen2moe": rule(normalise=0),
    "gpt-oss": rule(routing.CHOSEN_SOFTMAX),
    "deepseek2": rule(normalise=0, scale=16, n_groups=4, n_groups_used=2),
    "deepseek3": rule(routing.SIGMOID, scale=2.5, n_groups=3, n_groups_used=1),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("bias", [NO_BIAS, normal(N_EXPERTS, seed=1)], ids=["", "biased"])
def test_route(name, bias):
    logits = normal(50, N_EXPERTS) * 3
    experts, weights = route(logits, bias, RULES[name])
    expected, expected_weights = route(logits, bias, RULES[name], routing.route_ref)
    assert np.array_equal(experts, expected)
    assert np.allclose(weights, expected_weights, rtol=1e-5, atol=1e-7)
    for token in range(50):  # alone as in company
        alone = route(logits[token : token + 1], bias, RULES[name])
        assert same_bits(alone[1], weights[token : token + 1])


def test_weights_of_mixtral_are_the_softmax_of_the_chosen_logits():
    logits = normal(20, N_EXPERTS)
    experts, weights = route(logits, NO_BIAS, rule())
    chosen = -np.sort(-logits, axis=1)[:, :N_USED]
    assert np.array_equal(np.take_along_axis(logits, experts, 1), chosen)
    assert np.allclose(weights, np.exp(chosen) / np.exp(chosen).sum(1, keepdims=True), rtol=1e-5)


def test_route_takes_the_first_of_equals():
    experts, weights = route(np.zeros((1, N_EXPERTS), np.float32), NO_BIAS, rule())
    assert experts.tolist() == [[0, 1, 2]]
    assert np.allclose(weights, 1 / 3)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_route_of_what_is_not_finite(name, value):
    """Experts are always ones that exist, and other tokens get what they get alone."""
    logits = normal(3, N_EXPERTS)
    whole = route(logits, NO_BIAS, RULES[name])
    logits[1] = value
    experts, weights = route(logits, NO_BIAS, RULES[name])
    assert experts.min() >= 0
    assert experts.max() < N_EXPERTS
    assert same_bits(weights[::2].copy(), whole[1][::2].copy())


def grouped_pairs(experts: np.ndarray, function=routing.group_pairs) -> routing.Groups:
    num_pairs = experts.size
    groups = routing.Groups(
        np.full(num_pairs, -1, np.int32),
        np.full(num_pairs, -1, np.int32),
        np.full(experts.shape, -1, np.int32),
        np.full(min(num_pairs, N_EXPERTS) + 1, -1, np.int32),
    )
    function(experts, np.full(N_EXPERTS, 77, np.int32), groups)
    return groups


@pytest.mark.parametrize("num_tokens", [0, 1, 5, 100])
def test_group_pairs(num_tokens):
    experts = np.random.default_rng(2).integers(0, N_EXPERTS, (num_tokens, N_USED)).astype(np.int32)
    found, expected = grouped_pairs(experts), grouped_pairs(experts, routing.group_pairs_ref)
    for part, other in zip(found, expected, strict=True):
        if num_tokens:
            assert np.array_equal(part, other)
    assert np.array_equal(np.sort(found.owners), np.sort(experts.reshape(-1)))


def test_combine():
    y, weights = normal(15, 37), normal(5, N_USED, seed=1)
    places = np.random.default_rng(0).permutation(15).reshape(5, N_USED).astype(np.int32)
    out, expected = np.full((5, 37), np.nan, np.float32), np.empty((5, 37), np.float32)
    routing.combine(y, places, weights, out)
    routing.combine_ref(y, places, weights, expected)
    assert np.allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_add_bias():
    y, bias, owners = normal(7, 21), normal(4, 21, seed=1), np.array([0, 0, 1, 3, 3, 3, 3], np.int32)
    expected = y + bias[owners]
    routing.add_bias(y, bias, owners)
    assert np.array_equal(y, expected)


@pytest.mark.parametrize("name", ["F32", "Q4_0", "Q6_K"])
def test_grouped_matmul_has_the_bits_of_matmul(name):
    """Groups of no row, one row, and as many as have kernels of their own."""
    fmt, n_out, rng = FORMATS[name], 130, np.random.default_rng(5)
    num_blocks = 2 if fmt.group else 77
    n_in, counts = num_blocks * fmt.qk, [1, 0, 2, 17, 40, 3]
    stride = n_out * fmt.row_bytes(n_in)
    w = as_file(random_blocks(fmt, 9 * n_out * num_blocks, rng))
    slots = [4, 0, 1, 8, 2, 3]
    owners = np.repeat(np.array(slots, np.int32), counts)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    x = operand(fmt, rng.standard_normal((owners.size, n_in)).astype(np.float32))
    outs = []
    for num_workers in (1, 2):
        y = np.full((owners.size, n_out), np.nan, np.float32)
        plan = Plan()
        plan.add(grouped.grouped_matmul, fmt, fmt.type_size, w, stride, x, starts, owners, y)
        plan.run(num_workers)
        outs.append(y)
    assert same_bits(*outs)
    for slot, first, last in zip(slots, starts[:-1], starts[1:], strict=True):
        if first < last:
            part = Q8(*(a[first:last].copy() for a in x)) if fmt.group else x[first:last].copy()
            expected = np.empty((last - first, n_out), np.float32)
            matmul.matmul(fmt, fmt.type_size, w[slot * stride : (slot + 1) * stride], part, expected)
            assert same_bits(outs[0][first:last].copy(), expected)
    few = slice(0, 3)
    twin = np.full((3, n_out), np.nan, np.float32)
    x3 = Q8(*(a[few] for a in x)) if fmt.group else x[few]
    grouped.grouped_matmul_ref(fmt, fmt.type_size, w, stride, x3, starts[:4], owners[few], twin)
    assert same_bits(twin, outs[0][few].copy())


@pytest.mark.parametrize("n", [5, 64])
def test_clamped_swiglu(n):
    gate, up = 6 * normal(9, n), 6 * normal(9, n, seed=1)
    expected = np.empty_like(gate)
    gates.clamped_swiglu_ref(gate.astype(np.float64), up.astype(np.float64), expected)
    gate[3, 0], up[4, 1] = np.nan, np.nan
    gates.clamped_swiglu(gate, up, gate)
    assert np.isnan(gate[3, 0])
    assert np.isnan(gate[4, 1])
    assert np.isnan(gate).sum() == 2
    finite = np.isfinite(gate)
    assert np.allclose(gate[finite], expected[finite], rtol=1e-5, atol=1e-6)


def test_gate_rows():
    x, logits = normal(4, 33), np.array([[-100], [-1], [0], [100]], np.float32)
    expected = x / (1 + np.exp(-logits.astype(np.float64)))
    gates.gate_rows(x, logits)
    assert np.allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_copies():
    x, out = normal(6, 10), np.zeros((6, 7), np.float32)
    columns.copy_columns(out, 2, x, 3, 4)
    assert np.array_equal(out, np.pad(x[:, 3:7], ((0, 0), (2, 1))))
    x, out = normal(4, 3, 10), np.zeros((3, 4, 7), np.float32)
    columns.swap_axes(out, 2, x, 3, 4)
    assert np.array_equal(out[:, :, 2:6], x[:, :, 3:7].swapaxes(0, 1))
    assert not out[:, :, [0, 1, 6]].any()
