"""Attention and the KV cache: against the twin, and bit by bit against itself, however the work is cut."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from densecore.kernels import attention
from densecore.kernels.attention_tile import CHUNK, TILE
from densecore.kernels.kv_cache_q8 import dequantize_heads_ref, key_scales, quantize_heads_ref, value_scales
from densecore.kernels.kv_layout import block_bytes, cache_shapes, cache_width
from densecore.kernels.plan import Plan

RNG = np.random.default_rng(11)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


class Paged:
    """Sequences in a paged cache whose blocks are shuffled, with a query at each position."""

    def __init__(self, dtype, head_dim, lengths=(67, 33), block_size=5, n_kv_heads=2, n_heads=6, window=0, cap=0.0):
        counts = [-(-n // block_size) for n in lengths]
        num_blocks = sum(counts) + 1
        k_shape, v_shape = cache_shapes(num_blocks, n_kv_heads, block_size, head_dim, dtype)
        self.block_size, self.scale = block_size, np.float32(head_dim**-0.5)
        self.window, self.cap = window, np.float32(cap)
        self.sinks = attention.NO_SINKS
        self.k_cache, self.v_cache = np.zeros(k_shape, dtype), np.zeros(v_shape, dtype)
        self.tables = np.zeros((len(lengths), max(counts)), np.int32)
        blocks = iter(RNG.permutation(np.arange(1, num_blocks)))
        for table, count in zip(self.tables, counts, strict=True):
            table[:count] = [next(blocks) for _ in range(count)]
        self.seq_index = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        self.positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
        owners = self.tables[self.seq_index, self.positions // block_size]
        self.slots = owners * block_size + self.positions % block_size
        n = sum(lengths)
        self.q, self.k, self.v = (normal(n, heads, head_dim) for heads in (n_heads, n_kv_heads, n_kv_heads))
        self.k[:, 0] *= 4  # one head with sharp patterns, so that maxima move from tile to tile

    def store(self) -> Paged:
        attention.store_kv_ref(self.k, self.v, self.slots, self.k_cache, self.v_cache)
        return self

    def poison(self, slots) -> None:
        keys, values, nan = self.k_cache, self.v_cache, np.nan
        if keys.dtype == np.int8:
            keys, values = key_scales(keys), value_scales(values)
        elif keys.dtype == np.uint16:
            nan = 0x7E00
        keys[slots // self.block_size, :, :, slots % self.block_size] = nan
        values[slots // self.block_size, :, slots % self.block_size] = nan

    def attend(self, tokens, tables=None, workers=2) -> np.ndarray:
        """Outputs of the tokens (indices), computed in one batch."""
        tables = self.tables if tables is None else tables
        q, positions = np.ascontiguousarray(self.q[tokens]), self.positions[tokens]
        out = np.full_like(q, 99)
        scratch = np.full(attention.attention_scratch_shape(q, self.v_cache, tables), 77, np.float32)
        plan = Plan()
        caches = self.k_cache, self.v_cache
        settings = self.scale, self.window, self.cap, self.sinks
        plan.add(attention.attention, q, *caches, tables, self.seq_index[tokens], positions, *settings, scratch, out)
        plan.add(attention.merge_chunks, scratch, positions, self.window, self.sinks, out)
        plan.run(workers)
        return out

    def expected(self, tokens) -> np.ndarray:
        """The same by the twin, in float64."""
        q = self.q[tokens].astype(np.float64)
        sequences, positions = self.seq_index[tokens], self.positions[tokens]
        out = np.empty_like(q)
        arguments = self.k_cache, self.v_cache, self.tables, sequences, positions, self.scale, self.window, self.cap
        attention.attention_ref(q, *arguments, self.sinks, out)
        return out


@pytest.fixture(params=[np.uint16, np.float32, np.int8], ids=["f16", "f32", "q8_0"])
def dtype(request):
    return request.param


@pytest.mark.parametrize("head_dim", [4, 8, 20, 64])
def test_store_kv(dtype, head_dim):
    paged = Paged(dtype, head_dim)
    expected = paged.k_cache.copy(), paged.v_cache.copy()
    attention.store_kv_ref(paged.k, paged.v, paged.slots, *expected)
    paged.k_cache[:], paged.v_cache[:] = 1, 1  # padding of values must be cleared where tokens are stored
    attention.store_kv(paged.k, paged.v, paged.slots, paged.k_cache, paged.v_cache)
    used = np.isin(np.arange(len(paged.k_cache) * 5), paged.slots).reshape(-1, 1, 1, 5)
    width = cache_width(head_dim, dtype) if dtype == np.int8 else head_dim  # of keys as floats no padding is read
    assert np.array_equal(np.where(used, paged.k_cache[:, :, :width, :5], 0), expected[0][:, :, :width, :5])
    if dtype == np.int8:
        scales, expected_scales = key_scales(paged.k_cache)[..., :5], key_scales(expected[0])[..., :5]
        assert np.array_equal(np.where(used, scales, 0), expected_scales)
    assert np.array_equal(np.where(used.swapaxes(2, 3), paged.v_cache, 0), expected[1])


def gguf_rows(x: np.ndarray) -> np.ndarray:
    """x (.., head_dim) as Q8_0 and back, by the gguf package; zeros fill the last group."""
    padded = np.zeros((*x.shape[:-1], -(-x.shape[-1] // 32) * 32), np.float32)
    padded[..., : x.shape[-1]] = x
    kind = gguf.GGMLQuantizationType.Q8_0
    return gguf.quants.dequantize(gguf.quants.quantize(padded, kind), kind)[..., : x.shape[-1]]


@pytest.mark.parametrize("head_dim", [20, 64, 128])
def test_q8_0_is_the_one_of_the_gguf_package(head_dim):
    x = normal(200, 3, head_dim) * np.exp(3 * normal(200, 3, 1))
    x[7] = 0
    codes, scales = quantize_heads_ref(x)
    expected, step = gguf_rows(x), np.repeat(scales.astype(np.float32), 32, axis=-1)[..., :head_dim]
    difference = np.abs(dequantize_heads_ref(codes, scales, head_dim) - expected)
    assert (difference <= 1.001 * step).all()  # where x / d is half-way, either neighbour is right
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("head_dim", [64, 80])
def test_attention_over_q8_0_against_numpy(head_dim):
    """Plain attention in float64 over keys and values that the gguf package has converted."""
    paged = Paged(np.int8, head_dim, lengths=(50,), block_size=16)
    attention.store_kv(paged.k, paged.v, paged.slots, paged.k_cache, paged.v_cache)
    keys, values = (np.repeat(gguf_rows(x).astype(np.float64), 3, axis=1) for x in (paged.k, paged.v))
    scores = np.einsum("thd,phd->htp", paged.q, keys) * head_dim**-0.5
    scores[:, np.triu(np.ones((50, 50), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("htp,phd->thd", weights / weights.sum(-1, keepdims=True), values)
    found = paged.attend(np.arange(50))
    assert np.square(found - expected).sum() < 1e-6 * np.square(expected).sum()


def test_q8_0_of_what_is_not_finite():
    paged = Paged(np.int8, 64)
    paged.k[3, 0, 5], paged.v[4, 1, 40] = np.inf, np.nan
    attention.store_kv(paged.k, paged.v, paged.slots, paged.k_cache, paged.v_cache)
    keys = attention.read_keys(paged.k_cache, paged.tables[0], 67, 64, 5)
    values = attention.read_values(paged.v_cache, paged.tables[0], 67, 64)
    assert np.argwhere(np.isnan(keys)).tolist() == [[3, 0, i] for i in range(32)]
    assert np.argwhere(np.isnan(values)).tolist() == [[4, 1, i] for i in range(32, 64)]


def test_bytes_of_a_block():
    """Of the type that ggml gives 8.5 bits: 34 bytes for 32 elements."""
    assert block_bytes(2, 32, 64, np.int8) == 2 * 2 * 32 * 64 // 32 * 34
    assert block_bytes(2, 32, 80, np.int8) == 2 * 2 * 32 * 96 // 32 * 34
    assert block_bytes(2, 32, 64, np.uint16) == 2 * 2 * 32 * 64 * 2
    assert block_bytes(1, 8, 4, np.float32) == 4 * 8 * (8 + 16)  # half of the room for keys is unused


@pytest.mark.parametrize("head_dim", [4, 8, 20, 64, 80, 96, 100, 128])
def test_against_the_twin(dtype, head_dim):
    paged = Paged(dtype, head_dim).store()
    every = np.arange(100)
    assert np.allclose(paged.attend(every), paged.expected(every), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 7, 8])
def test_sizes_of_groups(dtype, group):
    paged = Paged(dtype, 24, n_heads=2 * group).store()
    every = np.arange(100)
    whole = paged.attend(every)
    assert np.allclose(whole, paged.expected(every), rtol=1e-5, atol=1e-5)
    assert np.array_equal(np.concatenate([paged.attend(every[t : t + 1]) for t in every]), whole)


def edges(length):
    """Tokens on both sides of the boundaries of tiles and chunks."""
    near = {0, length - 1} | {b + d for b in (TILE, 2 * TILE, CHUNK, 3 * CHUNK) for d in (-2, -1, 0, 1)}
    return np.array(sorted(t for t in near if 0 <= t < length))


@pytest.mark.parametrize("length", [1, 31, 32, 33, 255, 256, 257, 1000])
def test_cut_into_chunks_of_a_prompt(dtype, length):
    paged = Paged(dtype, 20, lengths=(length,), block_size=16).store()
    every = np.arange(length)
    whole = paged.attend(every)
    assert np.allclose(whole, paged.expected(every), rtol=1e-5, atol=1e-5)
    for size in (7, 64, 300):
        parts = [paged.attend(every[first : first + size]) for first in range(0, length, size)]
        assert np.array_equal(np.concatenate(parts), whole)
    for token in edges(length):
        assert np.array_equal(paged.attend(np.array([token])), whole[token : token + 1])


@pytest.mark.parametrize("block_size", [1, 15, 16, 17, 40, 64, 100, 1024])
def test_sizes_of_blocks(dtype, block_size):
    """Blocks lie across the boundaries of vectors and chunks, or hold all of a sequence."""
    tokens = np.arange(CHUNK - 3, CHUNK + 30)
    outputs = []
    for size in (block_size, 32):
        rng = np.random.default_rng(5)
        paged = Paged(dtype, 24, lengths=(CHUNK + 30,), block_size=size, n_kv_heads=4, n_heads=12)
        for x in (paged.q, paged.k, paged.v):
            x[:] = rng.standard_normal(x.shape)
        outputs.append(paged.store().attend(tokens))
    assert np.array_equal(*outputs)


@pytest.mark.parametrize("workers", [1, 3])
def test_number_of_threads(dtype, workers):
    paged = Paged(dtype, 64, lengths=(600,), block_size=32, n_heads=14).store()
    for tokens in (np.arange(600), np.arange(597, 600)):
        assert np.array_equal(paged.attend(tokens, workers=workers), paged.attend(tokens))


def test_company(dtype):
    """Prompts, parts of prompts and single tokens of several sequences in one batch."""
    paged = Paged(dtype, 16, lengths=(300, 40, 520, 33), block_size=8).store()
    first = np.array([0, 300, 340, 860])
    parts = [np.arange(290, 300), first[1:2] + 39, first[2] + np.arange(250, 300), first[3] + np.arange(33)]
    together = np.split(paged.attend(np.concatenate(parts)), np.cumsum([p.size for p in parts])[:-1])
    for part, found in zip(parts, together, strict=True):
        assert np.array_equal(paged.attend(part), found)
    singles = first + np.array([299, 39, 519, 32])
    assert np.array_equal(paged.attend(singles), np.concatenate([paged.attend(singles[i : i + 1]) for i in range(4)]))


@pytest.mark.parametrize("extra", [1, 200])
def test_padded_block_tables(dtype, extra):
    paged = Paged(dtype, 16).store()
    tables = np.pad(paged.tables, ((0, 0), (0, extra)))
    for tokens in (np.array([66]), np.arange(100)):
        assert np.array_equal(paged.attend(tokens, tables), paged.attend(tokens))


@pytest.mark.parametrize("tokens", [[40], range(30, 41)], ids=["one", "several"])
def test_nothing_behind_a_position_is_read(dtype, tokens):
    paged = Paged(dtype, 16).store()
    out = paged.attend(np.array(tokens))
    paged.poison(np.setdiff1d(np.arange(len(paged.k_cache) * 5), paged.slots[:41]))
    assert np.array_equal(paged.attend(np.array(tokens)), out)


@pytest.mark.parametrize("token", [5, 37, 66])
def test_nan_stays_with_its_token(dtype, token):
    paged = Paged(dtype, 16).store()
    every = np.arange(100)
    whole = paged.attend(every)
    paged.poison(paged.slots[token : token + 1])
    found = paged.attend(every)
    sees = (paged.seq_index == 0) & (paged.positions >= token)
    assert np.isnan(found[sees]).all()
    assert np.array_equal(found[~sees], whole[~sees])
    paged = Paged(dtype, 16).store()
    paged.q[token, 1] = np.nan
    is_nan = np.isnan(paged.attend(every)).any(-1)
    assert is_nan[token, 1]
    assert is_nan.sum() == 1


def test_scratch_only_where_contexts_are_split():
    q, tables = np.empty((1, 14, 64), np.float32), np.empty((1, 128), np.int32)
    cache = np.empty((128, 2, 32, 64), np.uint16)
    assert attention.attention_scratch_shape(q, cache, tables) == (1, 14, 4096 // CHUNK, 72)
    assert attention.attention_scratch_shape(q, cache, tables[:, :8])[0] == 0
    assert attention.attention_scratch_shape(np.repeat(q, 64, 0), cache, tables)[0] == 0


@pytest.mark.parametrize("cap", [0.0, 1.5], ids=["", "capped"])
@pytest.mark.parametrize("window", [1, 7, 32, 100, 511, 512, 513, 700])
def test_windows(dtype, window, cap):
    """However the work is cut, and the same bits where it is cut elsewhere."""
    length = 2 * CHUNK + 40
    paged = Paged(dtype, 24, lengths=(length,), block_size=16, window=window, cap=cap).store()
    every = np.arange(length)
    whole = paged.attend(every)
    assert np.allclose(whole, paged.expected(every), rtol=1e-5, atol=1e-5)
    for size in (7, 300):
        parts = [paged.attend(every[first : first + size]) for first in range(0, length, size)]
        assert np.array_equal(np.concatenate(parts), whole)
    for token in np.union1d(edges(length), edges(length - window) + window):
        assert np.array_equal(paged.attend(np.array([token])), whole[token : token + 1])


@pytest.mark.parametrize("window", [0, 100])
def test_sinks(dtype, window):
    """Against the twin and against plain numbers; the same bits in one piece and where contexts are split."""
    length = CHUNK + 40
    paged = Paged(dtype, 24, lengths=(length,), block_size=16, window=window).store()
    every = np.arange(length)
    without = paged.attend(every)
    paged.sinks = np.array([-np.inf, -50, -1, 0, 1.5, 50], np.float32)
    whole = paged.attend(every)
    assert np.allclose(whole, paged.expected(every), rtol=1e-5, atol=1e-5)
    for token in edges(length):
        assert np.array_equal(paged.attend(np.array([token])), whole[token : token + 1])
    assert np.allclose(whole[:, 0], without[:, 0], rtol=1e-6)
    score = paged.q[0] @ paged.k[0].T * paged.scale  # of the first token, which sees itself alone
    share = 1 / (1 + np.exp(paged.sinks - score[np.arange(6), np.arange(6) // 3]))
    assert np.allclose(whole[0], without[0] * share[:, None], atol=0.02 if dtype == np.int8 else 1e-3)


@pytest.mark.parametrize("block_size", [1, 15, 40, 1024])
def test_windows_and_sizes_of_blocks(dtype, block_size):
    paged = Paged(dtype, 24, lengths=(CHUNK + 90, 77), block_size=block_size, window=60).store()
    every = np.arange(CHUNK + 90 + 77)
    whole = paged.attend(every)
    assert np.allclose(whole, paged.expected(every), rtol=1e-5, atol=1e-5)
    for token in (0, 59, 60, 61, CHUNK - 1, CHUNK, CHUNK + 59, CHUNK + 60, CHUNK + 89, CHUNK + 150):
        assert np.array_equal(paged.attend(np.array([token])), whole[token : token + 1])


def test_a_window_as_long_as_the_context_is_none(dtype):
    paged = Paged(dtype, 64, lengths=(600,), block_size=32).store()
    every = np.arange(600)
    whole = paged.attend(every)
    paged.window = 600
    assert np.array_equal(paged.attend(every), whole)
    paged.window = 599
    assert np.array_equal(paged.attend(every)[:599], whole[:599])
    assert not np.array_equal(paged.attend(every), whole)


@pytest.mark.parametrize("tokens", [[620], range(600, 621), range(560, 621)], ids=["one", "several", "many"])
def test_nothing_before_a_window_is_read(dtype, tokens):
    paged = Paged(dtype, 16, lengths=(621,), window=50).store()
    tokens = np.array(tokens)
    out = paged.attend(tokens)
    paged.poison(paged.slots[: tokens[0] - 49])
    assert np.array_equal(paged.attend(tokens), out)


def test_a_cap(dtype):
    """Far above all scores it changes next to nothing; far below it makes weights equal."""
    paged = Paged(dtype, 64).store()
    every = np.arange(100)
    free = paged.attend(every)
    paged.cap = np.float32(1e4)
    assert np.allclose(paged.attend(every), free, rtol=1e-3, atol=1e-3)
    paged.cap = np.float32(1e-4)
    mean = paged.v[:67].mean(0).repeat(3, axis=0)
    assert np.allclose(paged.attend(np.array([66]))[0], mean, atol=2e-2 if dtype == np.int8 else 2e-3)
