"""Causal attention over a paged KV cache (see `kv_layout`), with grouped heads: prefill and decode by the same code.

Query head h reads the keys of head h // (n_heads / n_kv_heads). All query heads of one KV head, of all tokens of a
piece of work, are rows of one small matrix, which meets the keys and values piece by piece: what is read once serves
many queries. Softmax is computed along the way (Milakov and Gimelshein 2018; Dao et al. 2022, "FlashAttention").

Equal bits. The order of operations is defined by absolute positions, so that a token's output does not depend on
how prompts are cut into batches, on company, or on the number of threads:

1. A *chunk* is `CHUNK` positions, and begins at a multiple of it. For each chunk a row has a maximum m of its scores, a
   sum l of the weights 2^(score - m), and a sum o of weights times values (`attention_tile` gives their orders).
2. Chunks are merged in ascending order, beginning with (-inf, 0, 0): both sides are brought to the common maximum.
3. The output is o / l.

With a *window* a token sees the last positions only, itself included; what no token of a piece of work sees is not
touched. With a *cap* a score s becomes cap tanh(s / cap) before the softmax. With *sinks* each head has one more score
in its softmax, to which no value belongs (Xiao et al. 2023; gpt-oss): it takes part in step 3 alone, where o and l are
brought to the maximum of m and the sink s, and l grows by 2^(s - m).

With many tokens a task goes through all chunks of its tokens. With few (decode), a task does one chunk and leaves its
(m, l, o) in `scratch`, so that a long context keeps all threads busy, and `merge_chunks` does the rest.
"""

from __future__ import annotations

import numpy as np

from .attention_tile import CHUNK, SCORES, Buffers, Context, attend_chunk, first_seen, state_size, state_width
from .cache import inlined
from .exp import exp2_f32
from .kv_cache import read_keys, read_values, store_kv, store_kv_ref
from .kv_matrices import value_width
from .plan import operation, piece, row_operation
from .simd import load_f32, load_f32x8, store_f32, store_f32x8

__all__ = [
    "NO_SINKS",
    "attention",
    "attention_output_ref",
    "attention_pattern_ref",
    "attention_ref",
    "attention_scratch_shape",
    "merge_chunks",
    "read_keys",
    "read_values",
    "store_kv",
    "store_kv_ref",
]

NO_SINKS = np.empty(0, np.float32)

LOG2_E = np.float32(1.4426950408889634)  # scores are kept in powers of two: exp(x) = 2^(x log2 e)

_ROWS_PER_TASK = 64  # more share a tile's keys better, fewer share threads better
_ENOUGH_TASKS = 64  # from here on contexts are not split: scratch would be large
_ENOUGH_CHUNKS = 16  # tasks from which on a task takes several KV heads, which lie side by side in memory

# ------------------------------------------------------------------------ twins


def attention_pattern_ref(
    q, k_cache, block_table, positions, scale, block_size: int, window: int = 0, cap: float = 0.0, sinks=NO_SINKS
) -> np.ndarray:
    """Softmax weights (n_heads, num_tokens, length) of one sequence's tokens over its positions 0 .. length - 1.

    q : (num_tokens, n_heads, head_dim); positions : (num_tokens,), the last one is length - 1
    window : positions that a token sees, itself included; cap : bound of scores; 0 is none
    sinks : (n_heads,), with which weights add up to less than 1; or (0,)
    """
    length = int(positions[-1]) + 1
    keys = read_keys(k_cache, block_table, length, q.shape[2], block_size)
    keys = np.repeat(keys, q.shape[1] // keys.shape[1], axis=1)  # (length, n_heads, head_dim)
    scores = np.einsum("thd,phd->htp", q, keys) * np.float32(scale)
    if cap:
        scores = np.float32(cap) * np.tanh(scores / np.float32(cap))
    behind = positions[:, None] - np.arange(length)  # how far a position lies behind a token
    scores[:, (behind < 0) | (behind >= (window or length))] = -np.inf
    largest = scores.max(-1, keepdims=True)
    if sinks.size:
        largest = np.maximum(largest, sinks[:, None, None])
    weights, rest = np.exp(scores - largest), np.exp(sinks[:, None, None] - largest) if sinks.size else 0
    return weights / (weights.sum(-1, keepdims=True) + rest)


def attention_output_ref(pattern, v_cache, block_table, head_dim: int) -> np.ndarray:
    """Values (num_tokens, n_heads, head_dim) that a pattern (n_heads, num_tokens, length) picks."""
    values = read_values(v_cache, block_table, pattern.shape[2], head_dim)
    values = np.repeat(values, pattern.shape[0] // values.shape[1], axis=1)
    return np.einsum("htp,phd->thd", pattern, values)


def attention_ref(q, k_cache, v_cache, block_tables, seq_index, positions, scale, window, cap, sinks, out) -> None:
    """The twin of `attention`: sequence by sequence, with the whole matrix of weights."""
    for sequence in np.unique(seq_index):
        tokens = np.flatnonzero(seq_index == sequence)
        table, reach = block_tables[sequence], (v_cache.shape[2], window, cap, sinks)
        pattern = attention_pattern_ref(q[tokens], k_cache, table, positions[tokens], scale, *reach)
        out[tokens] = attention_output_ref(pattern, v_cache, table, q.shape[2])


def _attention_twin(
    q, k_cache, v_cache, block_tables, seq_index, positions, scale, window, cap, sinks, scratch, out
) -> None:
    attention_ref(q, k_cache, v_cache, block_tables, seq_index, positions, scale, window, cap, sinks, out)


def _merge_twin(scratch, positions, window, sinks, out) -> None:
    """Nothing: the twin of `attention` leaves nothing to merge."""


# ------------------------------------------------------------------------ shapes: all that tasks depend on


def attention_scratch_shape(q: np.ndarray, v_cache: np.ndarray, block_tables: np.ndarray) -> tuple[int, int, int, int]:
    """Shape (num_tokens, n_heads, num_chunks, state_width) of the scratch buffer for arguments of these shapes.

    float32; 0 tokens if contexts are not split.
    """
    num_tokens, n_heads = q.shape[:2]
    n_kv_heads, block_size = v_cache.shape[1:3]
    num_chunks = -(-block_tables.shape[1] * block_size // CHUNK)
    if num_chunks == 1 or num_tokens * n_kv_heads >= _ENOUGH_TASKS:
        num_tokens = 0
    return num_tokens, n_heads, num_chunks, state_width(value_width(v_cache))


def _heads_per_task(n_kv_heads: int, num_parts: int) -> int:
    """KV heads that a task takes: as many as leave enough tasks, where contexts are split."""
    heads = 1
    while num_parts > 1 and n_kv_heads % (2 * heads) == 0 and num_parts * n_kv_heads >= 2 * heads * _ENOUGH_CHUNKS:
        heads *= 2
    return heads


heads_per_task = inlined(_heads_per_task)


def _attention_tasks(
    q, k_cache, v_cache, block_tables, seq_index, positions, scale, window, cap, sinks, scratch, out
) -> int:
    """Pieces: groups of tokens x groups of KV heads x chunks, if contexts are split."""
    num_tokens, n_heads = q.shape[:2]
    n_kv_heads, num_parts = k_cache.shape[1], scratch.shape[2] if scratch.size else 1
    columns = n_kv_heads // _heads_per_task(n_kv_heads, num_parts) * num_parts
    most = max(1, _ROWS_PER_TASK * n_kv_heads // n_heads)
    num_groups = -(-num_tokens // min(most, max(1, num_tokens * columns // 16)))
    return num_groups * columns


# ------------------------------------------------------------------------ compiled


@inlined
def make_buffers(head_dim, num_rows, size):
    """Memory for a task."""
    return Buffers(
        np.empty(num_rows * head_dim, np.float32),
        np.empty(num_rows * SCORES, np.float32),
        np.empty(num_rows * size, np.float32),
    )


@inlined
def clear_states(states, num_rows, size):
    """(m, l, o) = (-inf, 0, 0)."""
    for row in range(num_rows):
        for d in range(size):
            store_f32(states, row * size + d, np.float32(0))
        store_f32(states, (row + 1) * size - 8, -np.inf)


@inlined
def pack_queries(q, first, last, head, num_heads, group, scale, rows):
    """Rows (KV head, token, head) of q times the scale; `head` is the first one, `num_heads` of KV heads."""
    n_heads, head_dim = q.shape[1], q.shape[2]
    place = 0
    for h in range(num_heads):
        for token in range(first, last):
            for g in range(group):
                source = (token * n_heads + head + h * group + g) * head_dim
                for k in range(head_dim):
                    store_f32(rows, place + k, load_f32(q, source + k) * scale)
                place += head_dim


@inlined
def merge(total, place, part, part_place, size):
    """Merge a state into the one of the chunks before."""
    m, total_l, part_m = place + size - 8, place + size - 7, part_place + size - 8
    new_m = max(load_f32(total, m), load_f32(part, part_m))
    keep, take = exp2_f32(load_f32(total, m) - new_m), exp2_f32(load_f32(part, part_m) - new_m)
    for d in range(0, size - 8, 8):
        old = load_f32x8(total, place + d) * keep
        store_f32x8(total, place + d, load_f32x8(part, part_place + d) * take + old)
    store_f32(total, m, new_m)
    store_f32(total, total_l, load_f32(total, total_l) * keep + load_f32(part, part_m + 1) * take)


@inlined
def write_output(states, place, size, sinks, head, out, first, head_dim):
    """out[first : first + head_dim] = o / l, with the sink of `head` in l."""
    keep, total = np.float32(1), load_f32(states, place + size - 7)
    if sinks.size:
        m, sink = load_f32(states, place + size - 8), sinks[head] * LOG2_E
        largest = max(m, sink)
        keep = exp2_f32(m - largest)
        total = total * keep + exp2_f32(sink - largest)
    whole = head_dim // 8 * 8
    for d in range(0, whole, 8):
        store_f32x8(out, first + d, load_f32x8(states, place + d) * keep / total)
    for d in range(whole, head_dim):
        store_f32(out, first + d, load_f32(states, place + d) * keep / total)


@inlined
def token_head(row, group, num_tokens):
    """Token and query head, both counted from the first, of a row."""
    return row // group % num_tokens, row // (group * num_tokens) * group + row % group


@inlined
def copy_states(states, num_rows, group, size, scratch, first, head, chunk, num_tokens):
    """Leave the states of a chunk in `scratch`."""
    n_heads, num_chunks = scratch.shape[1], scratch.shape[2]
    for row in range(num_rows):
        token, h = token_head(row, group, num_tokens)
        place = (((first + token) * n_heads + head + h) * num_chunks + chunk) * size
        for d in range(0, size, 8):
            store_f32x8(scratch, place + d, load_f32x8(states, row * size + d))


@inlined
def write_outputs(states, num_rows, group, size, sinks, out, first, head, num_tokens):
    """Outputs of all rows of a run of tokens."""
    head_dim = out.shape[2]
    for row in range(num_rows):
        token, h = token_head(row, group, num_tokens)
        place = ((first + token) * out.shape[1] + head + h) * head_dim
        write_output(states, row * size, size, sinks, head + h, out, place, head_dim)


@inlined
def merge_states(totals, states, num_rows, group, size, start, positions, window):
    """Merge a chunk's states into those of the chunks before; the chunk begins at position `start`."""
    for row in range(num_rows):
        position = positions[row // group % positions.size]
        if start <= position and first_seen(position, window) < start + CHUNK:
            merge(totals, row * size, states, row * size, size)


@inlined
def run_end(seq_index, positions, first, last):
    """Behind the tokens from `first` on that belong to one sequence, in ascending order."""
    end = first + 1
    while end < last and seq_index[end] == seq_index[first] and positions[end] > positions[end - 1]:
        end += 1
    return end


@operation(tasks=_attention_tasks, twin=_attention_twin)
def attention(
    q, k_cache, v_cache, block_tables, seq_index, positions, scale, window, cap, sinks, scratch, out, task, num_tasks
):
    """out (num_tokens, n_heads, head_dim): each token attends to its sequence's positions up to its own.

    q : (num_tokens, n_heads, head_dim) float32, after RoPE
    k_cache, v_cache : one layer's cache, in which the tokens' own keys and values are already stored
    block_tables : (num_seqs, max_blocks) int32, padded with anything; seq_index, positions : (num_tokens,) int32
    scale : float32, usually 1 / sqrt(head_dim)
    window : positions that a token sees, itself included; cap : float32, bound of scores; 0 is none
    sinks : (n_heads,) float32, a score of each head that takes no value; (0,) for none
    scratch : float32 of `attention_scratch_shape`; where it has tokens, `merge_chunks` must follow
    """
    size = state_size(value_width(v_cache))
    group = q.shape[1] // k_cache.shape[1]
    is_split = scratch.shape[0] > 0
    num_parts = scratch.shape[2] if is_split else 1
    num_heads = heads_per_task(k_cache.shape[1], num_parts)
    head_groups = k_cache.shape[1] // num_heads
    task = num_tasks - 1 - task  # the longest contexts first
    part, kv_head = num_parts - 1 - task % num_parts, task // num_parts % head_groups * num_heads
    head = kv_head * group
    first, last = piece(q.shape[0], task // (num_parts * head_groups), num_tasks // (num_parts * head_groups))
    buffers = make_buffers(q.shape[2], (last - first) * group * num_heads, size)
    totals = np.empty((last - first) * group * num_heads * size, np.float32)
    while first < last:
        end = run_end(seq_index, positions, first, last)
        run = positions[first:end]
        context = Context(k_cache, v_cache, block_tables, seq_index[first], kv_head, num_heads, window, cap * LOG2_E)
        num_rows = run.size * group * num_heads
        pack_queries(q, first, end, head, num_heads, group, scale / cap if cap > 0 else scale * LOG2_E, buffers.q)
        clear_states(totals, num_rows, size)
        behind = min(run[-1] + 1, (part + 1) * CHUNK) if is_split else run[-1] + 1
        begin = first_seen(run[0], window) // CHUNK * CHUNK
        for start in range(max(part * CHUNK, begin), behind, CHUNK):
            clear_states(buffers.states, num_rows, size)
            attend_chunk(buffers, context, start, group, run)
            if is_split:
                copy_states(buffers.states, num_rows, group, size, scratch, first, head, part, run.size)
            else:
                merge_states(totals, buffers.states, num_rows, group, size, start, run, window)
        if not is_split:
            write_outputs(totals, num_rows, group, size, sinks, out, first, head, run.size)
        first = end


@row_operation(twin=_merge_twin)
def merge_chunks(scratch, positions, window, sinks, out, first, last):
    """out (num_tokens, n_heads, head_dim): the chunks that `attention` left in `scratch`, merged."""
    n_heads, num_chunks, size = scratch.shape[1], scratch.shape[2], scratch.shape[3]
    head_dim = out.shape[2]
    total = np.empty(size, np.float32)
    for row in range(first * n_heads, last * n_heads):
        clear_states(total, 1, size)
        position = positions[row // n_heads]
        for chunk in range(first_seen(position, window) // CHUNK, position // CHUNK + 1):
            merge(total, 0, scratch, (row * num_chunks + chunk) * size, size)
        write_output(total, 0, size, sinks, row % n_heads, out, row * head_dim, head_dim)
