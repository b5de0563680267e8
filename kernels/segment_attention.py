"""Attention within segments: each token of a text sees all tokens of the same text, before and after it.

This is the attention of encoders (Vaswani et al. 2017; Devlin et al. 2018). Texts of different lengths lie one behind
the other in a batch, without padding; nothing is kept for later steps, so there is no cache. The products are those of
`attention_products`, as in `attention`: the queries of up to ROWS tokens of a text, of one head, meet the text's keys
and values tile by tile, and what is read once serves all of them.

With `slopes` a score falls by slope * |i - j|, the distance of the two tokens (Press et al. 2021, "ALiBi"; both ways,
Guenther et al. 2023, "Jina Embeddings 2").

Equal bits: a score is a chain of `fma` over the elements of a head; the weights 2^(score - m) of a token, with m the
maximum of its scores, are summed as `attention_tile.weigh` says; o is a chain of `fma` over positions ascending; the
output is o / l. All of it depends on places in the text alone, not on the batch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .attention import LOG2_E, NO_SINKS, clear_states, write_output
from .attention_products import multiply
from .attention_tile import state_size, weigh
from .cache import inlined
from .plan import operation, piece
from .simd import f32x8, load_f32, store_f32, store_f32x8
from .simd_products import matrix

__all__ = ["segment_attention", "segment_attention_ref", "segment_pattern_ref"]

ROWS = 64  # tokens whose queries a task takes: more share a tile better, fewer share threads better
TILE = 32  # positions whose keys or values are arranged at once


def segment_pattern_ref(q: np.ndarray, k: np.ndarray, scale: float, slopes: np.ndarray) -> np.ndarray:
    """Softmax weights (n_heads, length, length) of one text; q and k are (length, n_heads, head_dim)."""
    scores = np.einsum("thd,phd->htp", q, k) * np.float32(scale)
    if slopes.size:
        places = np.arange(len(q))
        scores -= slopes[:, None, None] * np.abs(places[:, None] - places)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def segment_attention_ref(q, k, v, seq_index, starts, scale, slopes, out) -> None:
    """The twin: text by text, with the whole matrix of weights."""
    for start, end in pairwise(starts):
        pattern = segment_pattern_ref(q[start:end], k[start:end], scale, slopes)
        out[start:end] = np.einsum("htp,phd->thd", pattern, v[start:end])


class Segment(NamedTuple):
    """One head of one text: its tokens are `start` to `end` (excluded) of the batch."""

    start: int
    end: int
    head: int


class Room(NamedTuple):
    """What a task works with, float32."""

    q: np.ndarray  # (rows, head_dim) queries times the scale
    tile: np.ndarray  # keys (head_dim, TILE), or values (TILE, width)
    scores: np.ndarray  # (rows, length) scores, then weights; rows have places up to the next multiple of 8
    states: np.ndarray  # (rows, state_size(width)) sums, see `attention_tile`


@inlined
def eights(n):
    """`n` rounded up to a multiple of 8."""
    return (n + 7) // 8 * 8


@inlined
def make_room(rows, length, head_dim):
    width = eights(head_dim)
    return Room(
        np.empty(rows * head_dim, np.float32),
        np.empty(TILE * width, np.float32),
        np.empty(rows * eights(length), np.float32),
        np.empty(rows * state_size(width), np.float32),
    )


@inlined
def take_queries(q, segment, first, last, scale, room):
    """The queries of tokens `first` to `last` of a head, times the scale."""
    n_heads, head_dim = q.shape[1], q.shape[2]
    for token in range(first, last):
        source, place = (token * n_heads + segment.head) * head_dim, (token - first) * head_dim
        for d in range(head_dim):
            store_f32(room.q, place + d, load_f32(q, source + d) * scale)


@inlined
def take_keys(k, segment, position, count, room):
    """`count` keys of a text from `position` on as columns, (head_dim, TILE); zeros up to a multiple of 8 of them."""
    n_heads, head_dim = k.shape[1], k.shape[2]
    for p in range(count):
        source = ((segment.start + position + p) * n_heads + segment.head) * head_dim
        for d in range(head_dim):
            store_f32(room.tile, d * TILE + p, load_f32(k, source + d))
    for d in range(head_dim):
        for p in range(count, eights(count)):
            store_f32(room.tile, d * TILE + p, np.float32(0))


@inlined
def take_values(v, segment, position, count, room):
    """`count` values of a text from `position` on as rows, (TILE, width); zeros behind each."""
    n_heads, head_dim = v.shape[1], v.shape[2]
    width = eights(head_dim)
    for p in range(count):
        source = ((segment.start + position + p) * n_heads + segment.head) * head_dim
        for d in range(head_dim):
            store_f32(room.tile, p * width + d, load_f32(v, source + d))
        for d in range(head_dim, width):
            store_f32(room.tile, p * width + d, np.float32(0))


@inlined
def score_all(k, segment, rows, room):
    """Scores of all rows at all positions."""
    length, head_dim = segment.end - segment.start, k.shape[2]
    stride = eights(length)
    for i in range(0, rows * stride, 8):
        store_f32x8(room.scores, i, f32x8(0.0))
    for position in range(0, length, TILE):
        count = min(TILE, length - position)
        take_keys(k, segment, position, count, room)
        keys, scores = matrix(room.tile, 0, TILE), matrix(room.scores, position, stride)
        multiply(matrix(room.q, 0, head_dim), keys, keys, head_dim, scores, rows, eights(count))


@inlined
def lower_by_distance(scores, first, length, place, slope):
    """score -= slope * |place - position|, of a row's scores from `first` on."""
    for p in range(length):
        store_f32(scores, first + p, load_f32(scores, first + p) - slope * np.float32(abs(place - p)))


@inlined
def add_all(v, segment, rows, room):
    """Weights times values, for all rows."""
    length, width = segment.end - segment.start, eights(v.shape[2])
    sums = matrix(room.states, 0, state_size(width))
    for position in range(0, length, TILE):
        count = min(TILE, length - position)
        take_values(v, segment, position, count, room)
        values, weights = matrix(room.tile, 0, width), matrix(room.scores, position, eights(length))
        multiply(weights, values, values, count, sums, rows, width)


@inlined
def attend(q, k, v, segment, first, last, scale, slopes, out):
    """Tokens `first` to `last` (excluded) of a text, of one head."""
    n_heads, head_dim, rows, length = q.shape[1], q.shape[2], last - first, segment.end - segment.start
    room = make_room(rows, length, head_dim)
    stride, size = eights(length), state_size(eights(head_dim))
    take_queries(q, segment, first, last, scale * LOG2_E, room)
    score_all(k, segment, rows, room)
    clear_states(room.states, rows, size)
    for row in range(rows):
        if slopes.size > 0:
            place, slope = first + row - segment.start, slopes[segment.head] * LOG2_E
            lower_by_distance(room.scores, row * stride, length, place, slope)
        weigh(room.scores, row * stride, 0, length, room.states, (row + 1) * size - 8)
    add_all(v, segment, rows, room)
    for row in range(rows):
        place = ((first + row) * n_heads + segment.head) * head_dim
        write_output(room.states, row * size, size, NO_SINKS, 0, out, place, head_dim)


def _segment_tasks(q, k, v, seq_index, starts, scale, slopes, out) -> int:
    """Pieces: heads x groups of tokens."""
    return q.shape[1] * -(-q.shape[0] // ROWS)


@operation(tasks=_segment_tasks, twin=segment_attention_ref)
def segment_attention(q, k, v, seq_index, starts, scale, slopes, out, task, num_tasks):
    """out (num_tokens, n_heads, head_dim): each token attends to all tokens of its text.

    q, k, v : (num_tokens, n_heads, head_dim) float32
    seq_index : (num_tokens,) int32, the number of each token's text; starts : (num_texts + 1,) int32, where texts begin
    scale : float32, usually 1 / sqrt(head_dim); slopes : (n_heads,) float32 of ALiBi, or empty
    """
    num_tokens, n_heads = q.shape[:2]
    first, last = piece(num_tokens, task // n_heads, num_tasks // n_heads)
    while first < last:
        text = seq_index[first]
        segment = Segment(int(starts[text]), int(starts[text + 1]), task % n_heads)
        end = min(last, segment.end)
        attend(q, k, v, segment, first, end, scale, slopes, out)
        first = end
