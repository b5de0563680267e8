"""exp, 2^x, tanh, and the tail of the normal distribution, of eight float32 at once."""

from __future__ import annotations

from math import factorial

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


# Taylor coefficients of 2^r from r^6 down to r: ln(2)^k / k!. At |r| = 1/2 what is left out is 2 ulp.
_D6, _D5, _D4, _D3, _D2, _D1 = (np.float32(np.log(2) ** k / factorial(k)) for k in range(6, 0, -1))


@inlined
def _exp2(x):
    shifted = x + _ROUND
    r = x - (shifted - _ROUND)
    p = fma(f32x8(_D6), r, f32x8(_D5))
    p = fma(p, r, f32x8(_D4))
    p = fma(p, r, f32x8(_D3))
    p = fma(p, r, f32x8(_D2))
    p = fma(p, r, f32x8(_D1))
    p = fma(p, r, f32x8(np.float32(1)))
    return as_f32(as_i32(p) + (as_i32(shifted) << 23))


@inlined
def exp2_f32x8(x):
    """2^x of each lane within 3 ulp, for x <= 0: below -126 it is 2^-126, NaN stays NaN."""
    return _exp2(maximum(f32x8(np.float32(-126)), x))


@inlined
def exp2_or_zero_f32x8(x):
    """The same, but 0 from -127 down; between -127 and -126 it is some number below 2^-126."""
    return _exp2(maximum(f32x8(np.float32(-127)), x))


@inlined
def exp2_f32(x):
    """2^x of one float32, with the bits of `exp2_f32x8`."""
    return exp2_f32x8(f32x8(x))[0]


# Taylor coefficients of tanh(x) / x by powers of x^2. Beyond |x| = 1/2, 1 - 2 / (exp(2 |x|) + 1) loses no digits.
_T7, _T6, _T5, _T4, _T3, _T2, _T1 = (
    np.float32(n / d)
    for n, d in (
        (-929569, 638512875),
        (21844, 6081075),
        (-1382, 155925),
        (62, 2835),
        (-17, 315),
        (2, 15),
        (-1, 3),
    )
)
_MAGNITUDE, _SIGN = 0x7FFFFFFF, -0x80000000  # bits of a float32


@inlined
def tanh_f32x8(x):
    """tanh of each lane within 4 ulp; NaN stays NaN."""
    square = x * x
    p = fma(f32x8(_T7), square, f32x8(_T6))
    p = fma(p, square, f32x8(_T5))
    p = fma(p, square, f32x8(_T4))
    p = fma(p, square, f32x8(_T3))
    p = fma(p, square, f32x8(_T2))
    p = fma(p, square, f32x8(_T1))
    near_zero = as_i32(fma(p * square, x, x))
    magnitude = as_f32(as_i32(x) & _MAGNITUDE)
    beyond = f32x8(1.0) - f32x8(2.0) / (exp_f32x8(magnitude + magnitude) + np.float32(1))
    beyond = as_i32(beyond) | (as_i32(x) & _SIGN)
    is_near = as_i32(magnitude - np.float32(0.5)) >> 31  # all bits or none
    return as_f32((near_zero & is_near) | (beyond & (is_near ^ -1)))


# Q(a) = exp(-a^2 / 2) t P(u) with t = 4 / (4 + a) and u = 2 t - 1: P of degree 9 through the 10 Chebyshev points of
# u in -1 .. 1, which leaves out 5e-8 of the result. The form is Hastings' (1955; Abramowitz and Stegun 26.2.17).
_Q9, _Q8, _Q7, _Q6, _Q5, _Q4, _Q3, _Q2, _Q1, _Q0 = (
    np.float32(c)
    for c in (
        4.06540780e-05,
        3.23350315e-05,
        -3.93938019e-04,
        -8.69049116e-04,
        1.88031388e-03,
        1.50988284e-02,
        4.66310461e-02,
        9.67843899e-02,
        1.51974149e-01,
        1.88821282e-01,
    )
)
_FARTHEST = np.float32(13)  # Q of it is 6e-39: nothing


@inlined
def upper_tail_f32x8(a):
    """Q(a), how probable it is that a normal variable is above a >= 0: within 1e-6 of it, as far as float32 goes.

    Beyond 13 it is that of 13; NaN stays NaN.
    """
    a = minimum(f32x8(_FARTHEST), a)
    t = f32x8(4.0) / (a + np.float32(4))
    u = t + t - np.float32(1)
    p = fma(f32x8(_Q9), u, f32x8(_Q8))
    p = fma(p, u, f32x8(_Q7))
    p = fma(p, u, f32x8(_Q6))
    p = fma(p, u, f32x8(_Q5))
    p = fma(p, u, f32x8(_Q4))
    p = fma(p, u, f32x8(_Q3))
    p = fma(p, u, f32x8(_Q2))
    p = fma(p, u, f32x8(_Q1))
    p = fma(p, u, f32x8(_Q0))
    return p * t * exp_f32x8(a * a * np.float32(-0.5))
