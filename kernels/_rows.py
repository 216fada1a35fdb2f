"""What the kernels of a transformer's block share: rows, normalised, times a weight; and GELU.

A row that fits is loaded and normalised once. Of a longer one a piece is normalised whenever a
product gets to it, by a mean and a variance found before.
"""

import triton
import triton.language as tl


@triton.jit
def gelu(x):
    """x Φ(x) to 5e-8 and half an ulp, as max(x, 0) - |x| Φ(-|x|); NaN for infinity.

    log2 Φ(-|x|) is a polynomial, fitted on |x| < 6.2: half the operations that tl.erf takes, and
    nothing cancels where x is far below 0.
    """
    a = tl.abs(x)
    p = -2.29330794e-6 * a + 3.30670664e-5  # goes on down beyond 6.2, where nothing is left
    p = p * a - 1.57099712e-4
    p = p * a - 2.04862779e-4
    p = p * a + 7.14904629e-3
    p = p * a - 5.25534302e-2
    p = p * a - 4.59189683e-1
    p = p * a - 1.15110755
    p = p * a - 0.99999994
    return tl.maximum(x, 0.0) - a * tl.exp2(p)


@triton.jit
def vector(at, i, n):
    """Numbers i of n, in float32; 0 behind the last."""
    return tl.load(at + i, mask=i < n, other=0.0).to(tl.float32)


@triton.jit
def matrix(at, there, d, D):
    """Numbers d of D from each of the addresses that are there; 0 elsewhere."""
    return tl.load(at[:, None] + d[None, :], mask=there[:, None] & (d[None, :] < D), other=0.0)


@triton.jit
def centred(x, mean, d, D):
    return tl.where(d[None, :] < D, x.to(tl.float32) - mean[:, None], 0.0)


@triton.jit
def scaled(x, rstd, gain, shift, d, D):
    """The second half of a normalisation; 0 behind the last column where x is."""
    return x * rstd[:, None] * vector(gain, d, D)[None, :] + vector(shift, d, D)[None, :]


@triton.jit
def rows_of(
    at, there, gain, shift, eps,
    NORM: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The rows of D numbers at these addresses, as `product` takes them."""
    d = tl.arange(0, BLOCK_D)
    x = matrix(at, there, d, D)
    mean = tl.sum(x.to(tl.float32), axis=1)
    rstd = mean  # not looked at without a norm
    if NORM:
        for d0 in range(BLOCK_D, D, BLOCK_D):
            mean += tl.sum(matrix(at, there, d0 + d, D).to(tl.float32), axis=1)
        mean /= D
        c = centred(x, mean, d, D)
        squares = tl.sum(c * c, axis=1)
        for d0 in range(BLOCK_D, D, BLOCK_D):
            c = centred(matrix(at, there, d0 + d, D), mean, d0 + d, D)
            squares += tl.sum(c * c, axis=1)
        rstd = tl.rsqrt(squares / D + eps)
        if D <= BLOCK_D:
            x = scaled(centred(x, mean, d, D), rstd, gain, shift, d, D).to(x.dtype)
    return x, at, there, mean, rstd, gain, shift


@triton.jit
def product(
    rows, weight_at, known,
    NORM: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rows times the rows of a weight at these addresses, if known: float32."""
    x, at, there, mean, rstd, gain, shift = rows
    d = tl.arange(0, BLOCK_D)
    y = tl.zeros([at.shape[0], weight_at.shape[0]], tl.float32)
    for d0 in range(0, D, BLOCK_D):
        if D > BLOCK_D:
            x = matrix(at, there, d0 + d, D)
            if NORM:
                c = centred(x, mean, d0 + d, D)
                x = scaled(c, rstd, gain, shift, d0 + d, D).to(x.dtype)
        inside = known[None, :] & (d0 + d[:, None] < D)
        w = tl.load(weight_at[None, :] + d0 + d[:, None], mask=inside, other=0.0)
        y = tl.dot(x, w, y, input_precision="ieee")
    return y


def power_of_2(n: int, at_least: int = 16) -> int:
    """As tl.arange and tl.dot take it."""
    return triton.next_power_of_2(max(n, at_least))  # type: ignore[no-any-return]
