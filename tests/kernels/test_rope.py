"""RoPE: frequencies against those of transformers, rotation against complex numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from densecore.kernels import rope

# Recorded from transformers 5.23 (modeling_rope_utils.ROPE_INIT_FUNCTIONS).
RECORDED = json.loads((Path(__file__).parent / "rope_transformers.json").read_text())


def llama3_divisors(case: dict) -> np.ndarray:
    """The `rope_freqs` tensor that a converter writes for Llama 3: old wavelength / new wavelength."""
    half = case["head_dim"] // 2
    plain = case["freq_base"] ** (-np.arange(half) / half)
    wavelength = 2 * math.pi / plain
    low, high = case["low_freq_factor"], case["high_freq_factor"]
    original = case["original_max_position_embeddings"]
    smooth = (original / wavelength - low) / (high - low)
    mixed = 1 / ((1 - smooth) / case["factor"] + smooth)
    return np.where(wavelength < original / high, 1, np.where(wavelength > original / low, case["factor"], mixed))


@pytest.mark.parametrize("case", RECORDED, ids=lambda c: f"{c['rope_type']}-{c['head_dim']}-{c['factor']:g}")
def test_frequencies_are_those_of_transformers(case):
    settings = {}
    if case["rope_type"] == "llama3":
        settings["divisors"] = llama3_divisors(case)
    else:
        settings.update(scaling=case["rope_type"], factor=case["factor"])
        settings["original_context"] = case.get("original_max_position_embeddings", 0)
        settings["beta_fast"], settings["beta_slow"] = case.get("beta_fast", 32.0), case.get("beta_slow", 1.0)
    frequencies, magnitude = rope.rope_frequencies(case["head_dim"], case["freq_base"], **settings)
    assert np.allclose(frequencies, case["frequencies"], rtol=2e-6)
    assert math.isclose(magnitude, case["magnitude"], rel_tol=1e-6)


@pytest.mark.parametrize("pairing", [rope.ADJACENT, rope.HALVES], ids=["adjacent", "halves"])
@pytest.mark.parametrize("rope_dim", [2, 16, 20], ids=lambda n: f"{n}-of-20")
def test_rotation_is_multiplication_by_a_unit_number(pairing, rope_dim):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3, 20)).astype(np.float32)
    positions = np.array([0, 1, 17, 4095, 1_000_000], np.int32)
    frequencies, _ = rope.rope_frequencies(rope_dim, 10000.0)
    half = rope_dim // 2
    cos, sin = np.empty((5, half), np.float32), np.empty((5, half), np.float32)
    rope.rope_table(positions, frequencies, 1.0, cos, sin)
    turn = np.exp(1j * positions[:, None] * frequencies)[:, None]
    if pairing == rope.ADJACENT:
        real, imaginary = np.arange(0, rope_dim, 2), np.arange(1, rope_dim, 2)
    else:
        real, imaginary = np.arange(half), np.arange(half, rope_dim)
    expected = x.astype(np.float64)
    rotated = (expected[..., real] + 1j * expected[..., imaginary]) * turn
    expected[..., real], expected[..., imaginary] = rotated.real, rotated.imag
    twin = x.copy()
    rope.rope_ref(twin, cos, sin, pairing)
    rope.rope(x, cos, sin, pairing)
    assert np.allclose(x, expected, atol=1e-6)
    assert np.array_equal(x, twin)


def test_magnitude_scales_the_rotated_part_only():
    x = np.ones((1, 1, 6), np.float32)
    frequencies, _ = rope.rope_frequencies(4, 10000.0)
    cos, sin = np.empty((1, 2), np.float32), np.empty((1, 2), np.float32)
    rope.rope_table(np.zeros(1, np.int32), frequencies, 1.25, cos, sin)
    rope.rope(x, cos, sin, rope.HALVES)
    assert x.tolist() == [[[1.25, 1.25, 1.25, 1.25, 1.0, 1.0]]]


def test_each_token_has_the_frequencies_of_its_set():
    positions, sets = np.array([3, 3, 70_000, 9], np.int32), np.array([0, 1, 1, 0], np.int32)
    frequencies = np.stack([rope.rope_frequencies(6, base)[0] for base in (1e4, 50.0)])
    found, twin = (np.empty((2, 4, 3), np.float32) for _ in range(2))
    rope.rope_table_of_sets(positions, sets, frequencies, 1.25, *found)
    rope.rope_table_of_sets_ref(positions, sets, frequencies, 1.25, *twin)
    assert np.allclose(found, twin, atol=1e-6)
    one = np.empty((2, 1, 3), np.float32)
    for token in range(4):
        rope.rope_table(positions[token : token + 1], frequencies[sets[token]], 1.25, *one)
        assert np.array_equal(one[:, 0], found[:, token])


def test_yarn_that_does_not_round_mixes_between_whole_pairs():
    """As gpt-oss: of transformers' formula, by hand. Pairs 0.84 and 8.06 make 8 turns and 1."""
    yarn = {"scaling": "yarn", "factor": 4.0, "original_context": 64, "beta_fast": 8.0, "beta_slow": 1.0}
    plain = 100.0 ** (-np.arange(16) / 16)
    pair = {turns: 32 * math.log(64 / (turns * 2 * math.pi)) / (2 * math.log(100.0)) for turns in (8.0, 1.0)}
    for truncate, low, high in ((True, math.floor(pair[8.0]), math.ceil(pair[1.0])), (False, pair[8.0], pair[1.0])):
        frequencies, _ = rope.rope_frequencies(32, 100.0, **yarn, truncate=truncate)
        ramp = np.clip((np.arange(16) - low) / (high - low), 0, 1)
        assert np.allclose(frequencies, plain * (ramp / 4 + 1 - ramp))
