"""Which experts compute which tokens: the router's choice, and tokens brought into the order of experts.

A mixture of experts (Shazeer et al. 2017; Fedus et al. 2021) has many feed-forward parts in a layer, of which each
token passes a few. All of it is decided in compiled code, so that a step remains one call:

1. `route` turns the router's logits into experts and weights, token by token.
2. `group_pairs` sorts the *pairs* (token, one of its experts) by expert. The pairs of one expert are then neighbours,
   and `grouped.grouped_matmul` multiplies them with its matrices, reading no others.
3. `combine` adds up what the experts made of each token, the expert with the largest weight first.

A token's experts, weights and order of additions depend on that token alone: equal bits in any batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cache import inlined
from .exp import exp_f32x8
from .plan import operation, piece, row_operation
from .simd import f32x8, fma, fma_f32, load_f32, load_f32x8, store_f32, store_f32x8

__all__ = ["CHOSEN_SOFTMAX", "SIGMOID", "SOFTMAX", "Groups", "Rule", "add_bias", "combine", "group_pairs", "route"]

# What makes scores of logits; CHOSEN_SOFTMAX is a softmax over the logits of those that were chosen.
SOFTMAX, SIGMOID, CHOSEN_SOFTMAX = 1, 2, 3

_SMALLEST = np.float32(1e-20)  # sum of weights: nothing is divided by less


class Rule(NamedTuple):
    """How a token's experts are chosen and weighed.

    With several groups of experts, side by side and of equal size, those in the best `n_groups_used` groups are
    eligible. A group is as good as its best expert (DeepSeek-V2), or, with SIGMOID, as the sum of its best two
    (DeepSeek-V3).
    """

    n_used: int  # experts of a token
    gating: int  # SOFTMAX, SIGMOID or CHOSEN_SOFTMAX
    normalise: int  # 1: weights are divided by their sum
    scale: np.float32  # weights are multiplied by it in the end
    n_groups: int
    n_groups_used: int


class Groups(NamedTuple):
    """Pairs of tokens and experts, sorted by expert. All int32.

    A *slot* is an expert that is in use; there are as many as there can be at most, of which the last may be empty.
    """

    tokens: np.ndarray  # (num_pairs,) token of each pair
    owners: np.ndarray  # (num_pairs,) expert of each pair, ascending
    places: np.ndarray  # (num_tokens, n_used) where each token's pairs are
    starts: np.ndarray  # (num_slots + 1,) first pair of each slot, and the number of pairs


# ------------------------------------------------------------------------ the router's choice


def scores_ref(logits: np.ndarray, gating: int) -> np.ndarray:
    """Scores (num_tokens, n_experts) of logits."""
    if gating == SIGMOID:
        return 1 / (1 + np.exp(-logits))
    if gating == CHOSEN_SOFTMAX:
        return logits
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def hide_groups_ref(keys: np.ndarray, rule: Rule) -> None:
    """Of one token, the keys (n_experts,) of experts in groups that are not among the best become -infinity."""
    groups = keys.reshape(rule.n_groups, -1)
    best = np.sort(groups, axis=1)[:, ::-1]
    quality = best[:, :2].sum(1) if rule.gating == SIGMOID else best[:, 0]
    groups[np.argsort(-quality, kind="stable")[rule.n_groups_used :]] = -np.inf


def route_ref(logits: np.ndarray, bias: np.ndarray, rule: Rule, experts: np.ndarray, weights: np.ndarray) -> None:
    """The twin of `route`."""
    scores = scores_ref(logits, rule.gating)
    keys = scores + bias if bias.size else scores.copy()
    for token, key in enumerate(keys):
        if rule.n_groups > 1:
            hide_groups_ref(key, rule)
        experts[token] = np.argsort(-key, kind="stable")[: rule.n_used]
        chosen = scores[token, experts[token]]
        if rule.gating == CHOSEN_SOFTMAX:
            chosen = np.exp(chosen - chosen[0])
        if rule.normalise or rule.gating == CHOSEN_SOFTMAX:
            chosen = chosen / max(chosen.sum(), _SMALLEST)
        weights[token] = chosen * rule.scale


@inlined
def exp_f32(x):
    """exp of one float32, with the bits of `exp_f32x8`."""
    return exp_f32x8(f32x8(x))[0]


@inlined
def score(logits, token, gating, scores):
    """Fill scores (n_experts,) from the logits of a token."""
    n = scores.size
    for e in range(n):
        scores[e] = logits[token, e]
    if gating == SIGMOID:
        for e in range(n):
            scores[e] = np.float32(1) / (np.float32(1) + exp_f32(-scores[e]))
    elif gating == SOFTMAX:
        largest, total = scores[index_of_largest(scores, 0, n)], np.float32(0)
        for e in range(n):
            scores[e] = exp_f32(scores[e] - largest)
            total += scores[e]
        for e in range(n):
            scores[e] /= total


@inlined
def index_of_largest(keys, first, last):
    """The first index of the largest of keys[first : last]; NaN is never the largest, unless it is the first."""
    best = first
    for i in range(first + 1, last):
        if keys[i] > keys[best]:
            best = i
    return best


@inlined
def quality_of_group(keys, first, last, is_sum):
    """Of experts `first` to `last`: the largest key, or the sum of the largest two."""
    best = index_of_largest(keys, first, last)
    if not is_sum:
        return keys[best]
    second = np.float32(-np.inf)
    for e in range(first, last):
        if e != best:
            second = max(second, keys[e])
    return keys[best] + second


@inlined
def hide_groups(keys, rule, quality):
    """Make the keys -infinity of all experts that are not in the best groups; quality (n_groups,) is memory."""
    size = keys.size // rule.n_groups
    for group in range(rule.n_groups):
        quality[group] = quality_of_group(keys, group * size, (group + 1) * size, rule.gating == SIGMOID)
    for group in range(rule.n_groups):
        better = 0
        for other in range(rule.n_groups):
            better += quality[other] > quality[group] or (quality[other] == quality[group] and other < group)
        if better >= rule.n_groups_used:
            for e in range(group * size, (group + 1) * size):
                keys[e] = -np.inf


@inlined
def weigh(weights, token, rule):
    """Turn the scores of a token's experts into weights."""
    is_softmax, total = rule.gating == CHOSEN_SOFTMAX, np.float32(0)
    largest = weights[token, 0]
    for i in range(rule.n_used):
        if is_softmax:
            weights[token, i] = exp_f32(weights[token, i] - largest)
        total += weights[token, i]
    divisor = max(total, _SMALLEST) if is_softmax or rule.normalise else np.float32(1)
    for i in range(rule.n_used):
        weights[token, i] = weights[token, i] / divisor * rule.scale


@row_operation(twin=route_ref, elements=512)
def route(logits, bias, rule, experts, weights, first, last):
    """Choose experts for tokens: int32 and float32 (num_tokens, n_used), in order of falling keys.

    logits : (num_tokens, n_experts) float32
    bias : (n_experts,) float32, added to scores for the choice alone (Wang et al. 2024); or (0,)
    """
    n = logits.shape[1]
    scores, keys, quality = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(rule.n_groups, np.float32)
    for token in range(first, last):
        score(logits, token, rule.gating, scores)
        for e in range(n):
            keys[e] = scores[e] + bias[e] if bias.size else scores[e]
        if rule.n_groups > 1:
            hide_groups(keys, rule, quality)
        for i in range(rule.n_used):
            best = index_of_largest(keys, 0, n)
            experts[token, i], weights[token, i] = best, scores[best]
            keys[best] = -np.inf
        weigh(weights, token, rule)


# ------------------------------------------------------------------------ the order of experts


def group_pairs_ref(experts: np.ndarray, counts: np.ndarray, groups: Groups) -> None:
    """The twin of `group_pairs`."""
    order = np.argsort(experts.reshape(-1), kind="stable")
    groups.tokens[:] = order // experts.shape[1]
    groups.owners[:] = experts.reshape(-1)[order]
    groups.places.reshape(-1)[order] = np.arange(order.size)
    starts = np.unique(groups.owners, return_index=True)[1]
    groups.starts[:] = order.size
    groups.starts[: starts.size] = starts


@operation(tasks=lambda experts, counts, groups: 1 if experts.size else 0, twin=group_pairs_ref)
def group_pairs(experts, counts, groups, task, num_tasks):
    """Sort the pairs of experts (num_tokens, n_used) by expert, and those of an expert by token.

    counts : (n_experts,) int32, memory to work with
    """
    num_tokens, n_used = experts.shape
    counts[:] = 0
    for token in range(num_tokens):
        for i in range(n_used):
            counts[experts[token, i]] += 1
    place, slot = np.int32(0), 0
    for e in range(counts.size):
        if counts[e]:
            groups.starts[slot] = place
            slot += 1
        place, counts[e] = place + counts[e], place  # from now on: where the expert's next pair goes
    groups.starts[slot:] = place
    for token in range(num_tokens):
        for i in range(n_used):
            e = experts[token, i]
            place = counts[e]
            counts[e] = place + 1
            groups.tokens[place], groups.owners[place], groups.places[token, i] = token, e, place


# ------------------------------------------------------------------------ what becomes of the products


def add_bias_ref(y: np.ndarray, bias: np.ndarray, owners: np.ndarray) -> None:
    """y (num_pairs, n) += bias (n_experts, n) of each pair's expert."""
    y += bias[owners]


@row_operation(twin=add_bias_ref)
def add_bias(y, bias, owners, first, last):
    """y (num_pairs, n) += bias (n_experts, n) of each pair's expert."""
    n = y.shape[1]
    whole = n // 8 * 8
    for pair in range(first, last):
        row, source = pair * n, owners[pair] * n
        for k in range(0, whole, 8):
            store_f32x8(y, row + k, load_f32x8(y, row + k) + load_f32x8(bias, source + k))
        for k in range(whole, n):
            store_f32(y, row + k, load_f32(y, row + k) + load_f32(bias, source + k))


def combine_ref(y: np.ndarray, places: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """out (num_tokens, n) = the rows `places` (num_tokens, n_used) of y, times weights, added up."""
    out[:] = (y[places] * weights[..., None]).sum(1)


@operation(
    tasks=lambda y, places, weights, out: min(out.shape[0], max(1, places.shape[1] * out.size // 8192)),
    twin=combine_ref,
)
def combine(y, places, weights, out, task, num_tasks):
    """out (num_tokens, n) = the rows `places` (num_tokens, n_used) of y, times weights, added up in that order."""
    n, n_used = out.shape[1], places.shape[1]
    whole = n // 8 * 8
    first, last = piece(out.shape[0], task, num_tasks)
    for token in range(first, last):
        for k in range(0, whole, 8):
            total = f32x8(0.0)
            for i in range(n_used):
                total = fma(f32x8(weights[token, i]), load_f32x8(y, places[token, i] * n + k), total)
            store_f32x8(out, token * n + k, total)
        for k in range(whole, n):
            rest = np.float32(0)
            for i in range(n_used):
                rest = fma_f32(weights[token, i], load_f32(y, places[token, i] * n + k), rest)
            store_f32(out, token * n + k, rest)
