"""Products by tile registers of bfloat16 against float64, and their promise of equal bits."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.kernels import gemm_bf16
from densecore.kernels.activation import gelu_erf_ref
from densecore.kernels.formats import FORMATS

RNG = np.random.default_rng(8)
pytestmark = pytest.mark.skipif(not gemm_bf16.HAS_BF16_TILES, reason="this CPU has no tiles of bfloat16")


def weights(name: str, n_out: int, n_in: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix as bytes, and what they stand for."""
    w = RNG.normal(size=(n_out, n_in)).astype(np.float32)
    if name == "BF16":
        data = (w.view(np.uint32) >> 16).astype(np.uint16)
    else:
        data = w.astype({"F32": np.float32, "F16": np.float16}[name])
    packed = data.reshape(-1).view(np.uint8)
    return packed, FORMATS[name].dequantize_ref(packed.reshape(-1, FORMATS[name].type_size)).reshape(n_out, n_in)


def multiply(name: str, packed: np.ndarray, x: np.ndarray, n_out: int, *, twin: bool = False) -> np.ndarray:
    halves = np.full(gemm_bf16.split_shape(*x.shape), 0x7FC0, np.uint16)  # NaN where there is no token
    y, bias = np.empty((len(x), n_out), np.float32), np.arange(n_out, dtype=np.float32)
    fmt = FORMATS[name]
    (gemm_bf16.split_ref if twin else gemm_bf16.split)(x, halves)
    product = gemm_bf16.matmul_split_ref if twin else gemm_bf16.matmul_split
    product(fmt, fmt.type_size, packed, halves, bias, y)
    return y


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(("num_tokens", "n_out", "n_in"), [(1, 32, 32), (37, 96, 64), (80, 64, 416)])
def test_products(name, num_tokens, n_out, n_in):
    packed, w = weights(name, n_out, n_in)
    x = RNG.normal(size=(num_tokens, n_in)).astype(np.float32)
    exact = x.astype(np.float64) @ w.T.astype(np.float64) + np.arange(n_out)
    scale = np.abs(x.astype(np.float64)) @ np.abs(w.T.astype(np.float64)) + np.arange(n_out)
    assert (np.abs(multiply(name, packed, x, n_out) - exact) < 2**-17 * scale).all()
    assert (np.abs(multiply(name, packed, x, n_out, twin=True) - exact) < 2**-17 * scale).all()


@pytest.mark.parametrize("num_tokens", [3, 45])
def test_products_with_gelu(num_tokens):
    packed, w = weights("F16", 96, 64)
    x, bias = RNG.normal(size=(num_tokens, 64)).astype(np.float32), RNG.normal(size=96).astype(np.float32)
    halves = np.full(gemm_bf16.split_shape(*x.shape), 0x7FC0, np.uint16)
    gemm_bf16.split(x, halves)
    results = []
    for function in (gemm_bf16.matmul_gelu, gemm_bf16.matmul_gelu_ref):
        out = np.zeros(gemm_bf16.split_shape(num_tokens, 96), np.uint16)
        fmt = FORMATS["F16"]
        function(fmt, fmt.type_size, packed, halves, bias, num_tokens, out)
        high, low = out.transpose(2, 0, 3, 1, 4).reshape(2, -1, 96)[:, :num_tokens].astype(np.uint32) << 16
        results.append(high.view(np.float32) + low.view(np.float32))
    exact = x.astype(np.float64) @ w.T.astype(np.float64) + bias
    gelu_erf_ref(exact)
    for result in results:
        assert np.allclose(result, exact, rtol=1e-4, atol=1e-4)


def test_a_token_has_the_same_bits_alone_and_in_company():
    packed, _ = weights("F16", 64, 96)
    x = RNG.normal(size=(70, 96)).astype(np.float32)
    together = multiply("F16", packed, x, 64)
    for token in (0, 15, 33, 69):
        assert np.array_equal(multiply("F16", packed, x[token : token + 1], 64)[0], together[token])
