"""Quantizers against the gguf package, and against a search for the best scale that is slow and sure."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import quants

from densecore.kernels.formats import FORMATS
from densecore.kernels.moments import add_products, add_products_ref
from densecore.kernels.quantizers import QUANTIZERS, InputMoments, input_moments

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


def quantize(name: str, x: np.ndarray, w: np.ndarray | None = None, moments: InputMoments | None = None) -> np.ndarray:
    """x, quantized and read back by the gguf package."""
    qk = FORMATS[name].qk
    w = np.ones_like(x) if w is None else w
    blocks, error = QUANTIZERS[name](x.reshape(-1, qk), w.reshape(-1, qk), moments)
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


# ------------------------------------------------------------------------------------------ inputs that go together


def mean_products(rng: np.random.Generator, n_blocks: int, length: int) -> np.ndarray:
    """Of inputs that some sixty directions explain for the most part, as in real models."""
    mixed = rng.standard_normal((n_blocks, length, 60)) @ rng.standard_normal((60, 600)) / 8
    inputs = mixed + rng.uniform(0.2, 1, (length, 1)) * rng.standard_normal(mixed.shape)
    return (inputs @ inputs.transpose(0, 2, 1) / 600).astype(np.float32)


@pytest.mark.parametrize("name", [name for name in QUANTIZED if name != "Q8_0"])
def test_errors_cancel_in_what_the_matrix_computes(name: str) -> None:
    """By a third at least, against rounding to the nearest; rows are no multiple of those computed side by side."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((11, 512)).astype(np.float32)
    products = mean_products(rng, 2, 256)
    costs = []
    for moments in (None, input_moments(products)):
        rest = (quantize(name, x, moments=moments) - x).reshape(11, 2, 256)
        costs.append(np.einsum("rbi,bij,rbj->", rest, products, rest))
    assert costs[1] < 0.66 * costs[0]


@pytest.mark.parametrize("name", ["Q4_1", "Q3_K", "IQ4_NL"])
def test_inputs_that_are_independent_change_nothing(name: str) -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((9, 256)).astype(np.float32)
    diagonal = np.diag(rng.uniform(0.1, 10, 256).astype(np.float32))[None]
    assert (quantize(name, x, moments=input_moments(diagonal)) == quantize(name, x)).all()


def test_rows_and_short_blocks_do_not_mix() -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((10, 96)).astype(np.float32)
    moments = input_moments(mean_products(rng, 3, 32))
    together = quantize("Q4_0", x, moments=moments)
    for row, expected in zip(x, together, strict=True):
        assert (quantize("Q4_0", row[None], moments=moments) == expected).all()
    for block in range(3):
        part = slice(32 * block, 32 * block + 32)
        alone = InputMoments(*(array[block : block + 1] for array in moments))
        assert (quantize("Q4_0", np.ascontiguousarray(x[:, part]), moments=alone) == together[:, part]).all()


def test_products_that_no_inputs_have() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        input_moments(np.array([[[1, 2], [2, 1]]], np.float32))


def test_sums_of_products() -> None:
    x = np.random.default_rng(8).standard_normal((13, 64)).astype(np.float32)
    got, expected = np.ones((2, 32, 32), np.float32), np.ones((2, 32, 32), np.float32)
    add_products(x, got)
    add_products_ref(x, expected)
    np.testing.assert_allclose(np.triu(got), np.triu(expected), rtol=1e-4, atol=1e-5)
