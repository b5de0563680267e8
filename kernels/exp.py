"""exp of eight float32 at once, and what is built on it."""

from __future__ import annotations

import numpy as np

from .cache import inlined
from .simd import as_f32, as_i32, f32x8, fma, maximum, minimum

# exp(x) = 2^n * exp(r) with n = round(x / ln 2) and r = x - n ln 2, |r| <= ln 2 / 2.
_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)  # ln 2 in two parts: n * high is exact
_LN2_LOW = np.float32(-2.1219444005469057e-4)
_ROUND = np.float32(1.5 * 2**23)  # adding it leaves round(x) in the low bits of the mantissa
_LOWEST, _HIGHEST = np.float32(-87.0), np.float32(88.0)
# Taylor coefficients of exp(r) from r^2: within 2 ulp on |r| <= 0.35.
_C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1.0 / f) for f in (2, 6, 24, 120, 720, 5040))


@inlined
def exp_f32x8(x):
    """exp of each lane within 2 ulp; arguments are clamped to -87 .. 88, NaN stays NaN."""
    x = minimum(f32x8(_HIGHEST), maximum(f32x8(_LOWEST), x))
    shifted = fma(x, f32x8(_LOG2_E), f32x8(_ROUND))
    n = shifted - _ROUND
    r = fma(n, f32x8(-_LN2_LOW), fma(n, f32x8(-_LN2_HIGH), x))
    p = fma(f32x8(_C7), r, f32x8(_C6))
    p = fma(p, r, f32x8(_C5))
    p = fma(p, r, f32x8(_C4))
    p = fma(p, r, f32x8(_C3))
    p = fma(p, r, f32x8(_C2))
    p = fma(p, r * r, r) + np.float32(1)
    return as_f32(as_i32(p) + (as_i32(shifted) << 23))  # times 2^n: n goes into the exponent


@inlined
def exp_f32(x):
    """exp of one float32, with the bits of `exp_f32x8`."""
    return exp_f32x8(f32x8(x))[0]
