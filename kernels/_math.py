"""Functions of float32 that Triton has not, or has with a slow path in local memory."""

import triton
import triton.language as tl


@triton.jit
def half_turn(x):
    """sin and cos of x modulo π: both with the wrong sign or both with the right one.

    Squares and products of the two are right. To 1e-7 for |x| < 1e4; beyond, where neighbours of x
    are further apart than that, in [-1, 1] at least. csrc/cpu/simd/vectors.h has the same.
    """
    big: tl.constexpr = 12582912.0  # 1.5 * 2^23: a number plus this, minus this, is whole
    k = (x * 0.318309886 + big) - big
    r = tl.fma(k, -3.140625, x)  # π in three parts, the first two without rounding
    r = tl.fma(k, -9.67502593994e-4, r)
    r = tl.fma(k, -1.509957990978e-7, r)
    r = tl.where(r > 1.6, 1.6, tl.where(r < -1.6, -1.6, r))  # NaN stays
    u = r * r
    s = 2.6057808e-6 * u - 1.9809602e-4
    s = s * u + 8.3330665e-3
    s = s * u - 1.6666660e-1
    c = -2.6193814e-7 * u + 2.4769304e-5
    c = c * u - 1.3888569e-3
    c = c * u + 4.1666657e-2
    return r + r * u * s, 1.0 - 0.5 * u + u * u * c
