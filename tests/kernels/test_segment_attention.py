"""Attention within segments against its twin, and its promise of equal bits."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.kernels.segment_attention import segment_attention, segment_attention_ref

RNG = np.random.default_rng(5)
NO_SLOPES = np.empty(0, np.float32)


def attend(q, k, v, lengths, slopes=NO_SLOPES, function=segment_attention) -> np.ndarray:
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    seq_index = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    out = np.full_like(q, np.nan)
    function(q, k, v, seq_index, starts, np.float32(0.3), slopes, out)
    return out


def activations(num_tokens: int, n_heads: int, head_dim: int) -> list[np.ndarray]:
    return [RNG.normal(size=(num_tokens, n_heads, head_dim)).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("lengths", [[1], [5, 1, 70], [33, 64, 7, 3], [200]], ids=str)
@pytest.mark.parametrize("head_dim", [32, 12])
@pytest.mark.parametrize("slopes", [NO_SLOPES, np.array([0.5, 0.125, 0.0], np.float32)], ids=["plain", "alibi"])
def test_equals_its_twin(lengths, head_dim, slopes):
    q, k, v = activations(sum(lengths), 3, head_dim)
    out = attend(q, k, v, lengths, slopes)
    assert np.allclose(out, attend(q, k, v, lengths, slopes, segment_attention_ref), rtol=1e-4, atol=1e-5)


def test_a_text_has_the_same_bits_alone_and_in_company():
    lengths = [40, 3, 90, 17, 64]
    q, k, v = activations(sum(lengths), 2, 16)
    slopes = np.array([0.25, 0.5], np.float32)
    together, start = attend(q, k, v, lengths, slopes), 0
    for length in lengths:
        text = slice(start, start + length)
        assert np.array_equal(attend(q[text], k[text], v[text], [length], slopes), together[text])
        start += length


def test_texts_do_not_see_each_other():
    q, k, v = activations(12, 2, 8)
    before = attend(q, k, v, [5, 7])
    k[:5], v[:5] = np.nan, np.inf
    after = attend(q, k, v, [5, 7])
    assert np.array_equal(before[5:], after[5:])
    assert np.isnan(after[:5]).all()
