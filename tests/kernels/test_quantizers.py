"""Quantizers against the gguf package, and against a search for the best scale that is slow and sure."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import quants

from densecore.kernels.formats import FORMATS
from densecore.kernels.quantizers import QUANTIZERS

# Root mean square errors on a million Gaussian weights by ggml's own quantizers, for types that the gguf package does
# not quantize.
GGML_ERRORS = {
    "Q2_K": 0.29729,
    "Q3_K": 0.15109,
    "Q4_K": 0.07155,
    "Q5_K": 0.03622,
    "Q6_K": 0.01778,
    "IQ4_NL": 0.07632,
    "IQ4_XS": 0.07690,
}
QUANTIZED = [name for name in QUANTIZERS if FORMATS[name].qk > 1]


def quantize(name: str, x: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
    """x, quantized and read back by the gguf package."""
    qk = FORMATS[name].qk
    w = np.ones_like(x) if w is None else w
    blocks, error = QUANTIZERS[name](x.reshape(-1, qk), w.reshape(-1, qk))
    assert blocks.dtype == np.uint8
    assert blocks.shape == (x.size // qk, FORMATS[name].type_size)
    back = quants.dequantize(blocks, gguf.GGMLQuantizationType[name]).reshape(x.shape)
    assert error == pytest.approx(np.square(back - x, dtype=np.float64).sum(), rel=1e-3, abs=1e-9)
    return back


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a - b, dtype=np.float64).mean()))


def reference_error(name: str, x: np.ndarray) -> float:
    if name in GGML_ERRORS:
        return GGML_ERRORS[name]
    kind = gguf.GGMLQuantizationType[name]
    return rmse(quants.dequantize(quants.quantize(x, kind), kind), x)


def test_there_is_a_quantizer_for_each_format() -> None:
    assert set(QUANTIZERS) <= set(FORMATS)
    assert {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"} <= set(QUANTIZERS)
    assert {"IQ4_NL", "IQ4_XS", "F16", "BF16", "F32"} <= set(QUANTIZERS)


@pytest.mark.parametrize("name", QUANTIZED)
def test_error_on_gaussian_weights_is_at_most_the_reference_s(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    assert rmse(quantize(name, x), x) <= 1.01 * reference_error(name, x)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_floats_have_the_bits_of_the_gguf_package(name: str) -> None:
    x = (np.random.default_rng(1).standard_normal(1000) * 10.0 ** np.arange(-8, 2).repeat(100)).astype(np.float32)
    expected = quants.quantize(x, gguf.GGMLQuantizationType[name]).view(np.uint8).reshape(len(x), -1)
    blocks, error = QUANTIZERS[name](x.reshape(-1, 1), np.ones((len(x), 1), np.float32))
    assert (blocks == expected).all()
    back = FORMATS[name].dequantize_ref(blocks)[:, 0]
    assert error == pytest.approx(np.square(back - x, dtype=np.float64).sum(), rel=1e-5)


@pytest.mark.parametrize("name", QUANTIZED)
def test_zeros_stay_zeros_and_constants_stay_near(name: str) -> None:
    x = np.zeros((3, 256), np.float32)
    x[1], x[2] = 0.5, -0.5
    back = quantize(name, x)
    assert (back[0] == 0).all()
    np.testing.assert_allclose(back[1:], x[1:], rtol=0.04)


@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_that_matter_are_nearer(name: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((32, 256)).astype(np.float32)
    w = np.where(rng.random((32, 256)) < 0.2, np.float32(100), np.float32(1))
    plain, weighted = quantize(name, x) - x, quantize(name, x, w) - x
    assert (w * weighted**2).sum() < (w * plain**2).sum()


@pytest.mark.parametrize("n_groups", [1, 7, 8, 9])
def test_groups_beside_each_other_do_not_mix(n_groups: int) -> None:
    x = np.random.default_rng(3).standard_normal((n_groups, 32)).astype(np.float32)
    together, _ = QUANTIZERS["Q4_1"](x, np.ones_like(x))
    alone = [QUANTIZERS["Q4_1"](row[None], np.ones((1, 32), np.float32))[0][0] for row in x]
    assert (together == np.array(alone)).all()


def test_scale_is_nearly_the_best_there_is() -> None:
    """Q4_0 on some groups: all scales of a fine grid, of both signs, by brute force."""
    x = np.random.default_rng(4).standard_normal((16, 32)).astype(np.float32)
    scales = np.concatenate([s := np.linspace(0.05, 0.6, 4000), -s])[:, None, None]
    best = np.square(x - scales * np.clip(np.rint(x / scales), -8, 7)).sum(2).min(0)
    found = np.square(quantize("Q4_0", x) - x).sum(1)
    assert found.sum() <= 1.02 * best.sum()
