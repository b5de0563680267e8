"""Every quantization type against the gguf package, its readable twin, and float64."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from densecore.kernels import matmul
from densecore.kernels.formats import FORMATS, Q8, Format, dequantize_row, vec_dot
from densecore.kernels.formats.base import fma_ref

from .blocks import (
    EXTREME_BYTES,
    FLOAT_NAMES,
    NAMES,
    QUANTIZED_NAMES,
    as_file,
    dequantize_operand,
    extreme_rows,
    finite_halves,
    guarded,
    operand,
    random_blocks,
    same_bits,
    token_of,
)

EXPECTED_NAMES = {
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0"),
}
FLOAT_LENGTHS = (1, 7, 8, 9, 172, 771)


def oracle(name: str, blocks: np.ndarray) -> np.ndarray:
    """blocks (n, type_size) -> (n, qk) float32 by the gguf package."""
    return quants.dequantize(blocks, GGMLQuantizationType[name])


def fast_products(fmt: Format, w: np.ndarray, x: Q8 | np.ndarray, n_out: int) -> np.ndarray:
    """(num_tokens, n_out) by the compiled `vec_dot`."""
    num_tokens = len(x.q if isinstance(x, Q8) else x)
    y = np.full((num_tokens, n_out), np.nan, np.float32)
    matmul.matmul(fmt, fmt.type_size, w, x, y)
    return y


def twin_products(fmt: Format, w: np.ndarray, x: Q8 | np.ndarray, n_out: int) -> np.ndarray:
    """(num_tokens, n_out) by `vec_dot_ref`."""
    rows = w.reshape(n_out, -1, fmt.type_size)
    num_tokens = len(x.q if isinstance(x, Q8) else x)
    return np.array([[fmt.vec_dot_ref(row, token_of(x, t)) for row in rows] for t in range(num_tokens)], np.float32)


def shapes(fmt: Format) -> list[tuple[int, int, int]]:
    """(n_out, num_tokens, num_blocks): a single one, a few, and odd numbers of each."""
    if fmt.group:
        return [(1, 1, 1), (1, 3, 2), (3, 1, 5), (5, 2, 3), (2, 2, 19)]
    return [(n_out, num_tokens, n) for n in FLOAT_LENGTHS for n_out, num_tokens in ((1, 1), (3, 2))]


def test_registry_is_complete() -> None:
    assert set(FORMATS) == EXPECTED_NAMES


@pytest.mark.parametrize("name", NAMES)
def test_number_and_sizes_are_those_of_the_gguf_package(name: str) -> None:
    fmt = FORMATS[name]
    assert fmt.name == name
    assert fmt.ggml_type == GGMLQuantizationType[name]
    assert (fmt.qk, fmt.type_size) == GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    assert fmt.group in (0, fmt.qk)
    assert fmt.row_bytes(3 * fmt.qk) == 3 * fmt.type_size


@pytest.mark.parametrize("name", NAMES)
def test_dequantize_has_the_bits_of_the_gguf_package(name: str) -> None:
    fmt, rng = FORMATS[name], np.random.default_rng(1)
    for n_rows, num_blocks in ((1, 1), (3, 1), (2, 7), (5, 16)):
        blocks = random_blocks(fmt, n_rows * num_blocks, rng, finite_halves)
        expected = oracle(name, blocks)
        assert same_bits(fmt.dequantize_ref(blocks), expected)
        out = np.full((n_rows, num_blocks * fmt.qk), np.nan, np.float32)
        matmul.embed(fmt, fmt.qk, fmt.type_size, as_file(blocks), np.arange(n_rows, dtype=np.int32), out)
        assert same_bits(out, expected.reshape(out.shape))


def test_every_scale_of_mxfp4() -> None:
    fmt = FORMATS["MXFP4"]
    blocks = np.empty((256, fmt.type_size), np.uint8)
    blocks[:, 1:] = np.arange(16) * 17  # each value twice
    blocks[:, 0] = np.arange(256)
    out = np.empty((256, fmt.qk), np.float32)
    matmul.embed(fmt, fmt.qk, fmt.type_size, as_file(blocks), np.arange(256, dtype=np.int32), out)
    with np.errstate(over="ignore"):  # 12 * 2^127
        assert same_bits(out, oracle("MXFP4", blocks))
    assert same_bits(out, fmt.dequantize_ref(blocks))


@pytest.mark.parametrize("name", NAMES)
def test_vec_dot_has_the_bits_of_its_twin(name: str) -> None:
    fmt, rng = FORMATS[name], np.random.default_rng(2)
    for n_out, num_tokens, num_blocks in shapes(fmt):
        w = as_file(random_blocks(fmt, n_out * num_blocks, rng))
        x = operand(fmt, rng.standard_normal((num_tokens, num_blocks * fmt.qk)).astype(np.float32))
        assert same_bits(fast_products(fmt, w, x, n_out), twin_products(fmt, w, x, n_out))


@pytest.mark.parametrize("name", QUANTIZED_NAMES)
def test_vec_dot_has_the_bits_of_its_twin_for_any_scales(name: str) -> None:
    fmt, rng = FORMATS[name], np.random.default_rng(3)
    w = as_file(random_blocks(fmt, 4 * 11, rng, finite_halves))
    x = operand(fmt, (rng.standard_normal((2, 11 * fmt.qk)) * 1e-3).astype(np.float32))
    assert same_bits(fast_products(fmt, w, x, 4), twin_products(fmt, w, x, 4))


@pytest.mark.parametrize("name", NAMES)
def test_vec_dot_is_the_product_of_dequantized_weights_and_activations(name: str) -> None:
    fmt, rng = FORMATS[name], np.random.default_rng(4)
    n_out, num_tokens, num_blocks = 3, 2, 2048 // fmt.qk
    blocks = random_blocks(fmt, n_out * num_blocks, rng)
    x = operand(fmt, rng.standard_normal((num_tokens, num_blocks * fmt.qk)).astype(np.float32))
    weights = oracle(name, blocks).astype(np.float64).reshape(n_out, -1)
    activations = dequantize_operand(x)
    error = np.abs(fast_products(fmt, as_file(blocks), x, n_out) - activations @ weights.T)
    assert (error <= 1e-6 * (np.abs(activations) @ np.abs(weights).T)).all()


@pytest.mark.parametrize("name", QUANTIZED_NAMES)
def test_no_integer_of_vec_dot_saturates(name: str) -> None:
    fmt, num_blocks = FORMATS[name], 2
    rows = extreme_rows(fmt, len(EXTREME_BYTES), num_blocks)
    ends = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]], np.float32)
    x = operand(fmt, np.tile(ends, (1, num_blocks * fmt.qk // 2)))
    assert set(np.unique(x.q)) == {-127, 127}
    w = as_file(rows)
    y = fast_products(fmt, w, x, len(EXTREME_BYTES))
    assert same_bits(y, twin_products(fmt, w, x, len(EXTREME_BYTES)))
    exact = dequantize_operand(x) @ fmt.dequantize_ref(rows.reshape(-1, fmt.type_size)).reshape(len(rows), -1).T
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=0.5)


@pytest.mark.parametrize("at_end", [False, True], ids=["from-page-start", "to-page-end"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_outside_of_weights_and_activations_is_read(name: str, at_end: bool) -> None:
    fmt, rng = FORMATS[name], np.random.default_rng(5)
    n_out, num_tokens, num_blocks = 3, 2, 3 if fmt.group else 13
    blocks = random_blocks(fmt, n_out * num_blocks, rng)
    x = operand(fmt, rng.standard_normal((num_tokens, num_blocks * fmt.qk)).astype(np.float32))
    w = guarded(as_file(blocks), at_end=at_end)
    inside = Q8(*(guarded(part, at_end=at_end) for part in x)) if isinstance(x, Q8) else guarded(x, at_end=at_end)
    assert same_bits(fast_products(fmt, w, inside, n_out), fast_products(fmt, as_file(blocks), x, n_out))
    out = guarded(np.zeros((n_out, num_blocks * fmt.qk), np.float32), at_end=at_end)
    matmul.embed(fmt, fmt.qk, fmt.type_size, w, np.arange(n_out, dtype=np.int32), out)
    assert same_bits(out, fmt.dequantize_ref(blocks).reshape(out.shape))


@pytest.mark.parametrize("name", NAMES)
def test_generic_operations_are_the_twins_where_nothing_is_compiled(name: str) -> None:
    fmt, rng = FORMATS[name], np.random.default_rng(8)
    num_blocks = 2 if fmt.group else 9
    blocks = random_blocks(fmt, 3 * num_blocks, rng)
    x = operand(fmt, rng.standard_normal((2, num_blocks * fmt.qk)).astype(np.float32))
    second_row = num_blocks * fmt.type_size
    product = vec_dot(fmt, as_file(blocks), second_row, num_blocks, x, 1)
    assert product == fmt.vec_dot_ref(blocks[num_blocks : 2 * num_blocks], token_of(x, 1))
    out = np.zeros((2, num_blocks * fmt.qk), np.float32)
    dequantize_row(fmt, as_file(blocks), second_row, num_blocks, out, out.shape[1])
    assert same_bits(out[1], fmt.dequantize_ref(blocks[num_blocks : 2 * num_blocks]).reshape(-1))
    assert not out[0].any()


@pytest.mark.parametrize("name", FLOAT_NAMES)
def test_float_vec_dot_keeps_infinity_and_nan(name: str) -> None:
    fmt = FORMATS[name]
    w = as_file(random_blocks(fmt, 19, np.random.default_rng(6)))
    x = np.ones((3, 19), np.float32)
    x[1, 3], x[2, 18] = np.inf, np.nan
    y = fast_products(fmt, w, x, 1)[:, 0]
    assert np.isfinite(y[0])
    assert np.isinf(y[1])
    assert np.isnan(y[2])


def test_fma_of_the_twins_is_rounded_once() -> None:
    # a * a = 1 + 2**-11 + 2**-24 lies in the middle between two float32. The summand decides, and float64 loses it.
    a, tiny = np.float32(1 + 2.0**-12), np.float32(2.0**-60)
    below, above = np.float32(1 + 2.0**-11), np.float32(1 + 2.0**-11 + 2.0**-23)
    assert fma_ref(a, a, -tiny) == below
    assert fma_ref(a, a, np.float32(0)) == below  # a tie, to even
    assert fma_ref(a, a, tiny) == above
    assert fma_ref(np.float32(3e38), np.float32(2), np.float32(0)) == np.inf
    assert np.isnan(fma_ref(np.float32(np.inf), np.float32(1), np.float32(-np.inf)))
