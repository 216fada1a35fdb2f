"""What stft, istft and their gradients share: two kernels, each a sum in one fixed order.

    analysis    plane[g, t] = sum_n b[g, n] w[n] sample[t hop + n]      stft; the gradient of istft
    synthesis   sample[s] = sum_t,g b[g, s - t hop] w[s - t hop] plane[g, t]    istft; that of stft

By the definition, for any n_fft: with hop = n_fft / 4 that is n_fft operations a sample and row,
which hides behind the memory traffic up to an n_fft of about 32, and grows with n_fft beyond.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsgen.ops.stft import fourier_rows

OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit(do_not_specialize=["n_series"])
def analysis_kernel(
    samples,  # (n_series, L)
    weight,  # (L,) that samples are multiplied with, unless REFLECT
    window,  # (W,)
    basis,  # (2, F, W): cosines, and sines times -1
    planes,  # (n_series, 2, F, T)
    n_series,
    L,
    W,
    hop,
    F,
    T,
    REFLECT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pieces = tl.cdiv(F, ROWS)
    program = tl.program_id(0).to(tl.int64)
    f = (program % pieces).to(tl.int32) * ROWS + tl.arange(0, ROWS)
    # lanes are frames, of as many series as it takes
    first = program // pieces * BLOCK
    frame = (first % T).to(tl.int32) + tl.arange(0, BLOCK)
    series, t = first // T + frame // T, frame % T
    start = t * hop - W // 2
    here = series < n_series
    samples += series * L
    real = tl.zeros([ROWS, BLOCK], tl.float32)
    imaginary = tl.zeros([ROWS, BLOCK], tl.float32)
    for n in range(0, W // 2 + 1):
        # cosines are even and sines odd: n and W - n share their products
        m = W - n
        a = sample(samples, weight, start + n, here, L, REFLECT)
        a *= tl.load(window + n).to(tl.float32)
        place = m + tl.zeros_like(t)
        two = here & (place < W) & (place != n)
        b = sample(samples, weight, start + m, two, L, REFLECT)
        b *= tl.load(window + m % W).to(tl.float32)
        cosine = tl.load(basis + f * W + n, mask=f < F, other=0.0)
        sine = tl.load(basis + (F + f) * W + n, mask=f < F, other=0.0)
        real += cosine[:, None] * (a + b)[None, :]
        imaginary += sine[:, None] * (a - b)[None, :]
    mask = (f[:, None] < F) & here[None, :]
    plane = series[None, :] * 2 * F + f[:, None]
    element: tl.constexpr = planes.dtype.element_ty
    tl.store(planes + plane * T + t[None, :], real.to(element), mask=mask)
    tl.store(planes + (plane + F) * T + t[None, :], imaginary.to(element), mask=mask)


@triton.jit
def sample(samples, weight, l, mask, L, REFLECT: tl.constexpr):
    """Samples l of some series, which are mirrored at their ends or 0 beyond them."""
    if REFLECT:
        l = tl.where(l < 0, -l, l)
        l = tl.where(l < L, l, 2 * (L - 1) - l)
        x = tl.load(samples + l, mask=mask, other=0.0).to(tl.float32)
    else:
        mask = mask & (l >= 0) & (l < L)
        x = tl.load(samples + l, mask=mask, other=0.0).to(tl.float32)
        x *= tl.load(weight + l, mask=mask, other=0.0)
    return x


@triton.jit(do_not_specialize=["n_series"])
def synthesis_kernel(
    planes,  # (n_series, 2, F, T)
    window,  # (W,)
    basis,  # (2, F, W)
    samples,  # (n_series, L)
    n_series,
    L,
    W,
    hop,
    F,
    T,
    REFLECT: tl.constexpr,
    SERIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pieces = tl.cdiv(L, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    series = program // pieces * SERIES + tl.arange(0, SERIES)
    first = (program % pieces).to(tl.int32) * BLOCK
    l = first + tl.arange(0, BLOCK)
    here = series < n_series
    planes += series[:, None] * 2 * F * T
    sums, weight = overlapping(planes, window, basis, l + W // 2, l < L, here, W, hop, F, T)
    if REFLECT:
        # a sample has its mirror images' gradient too; only those near an end have one
        if first <= W // 2:
            mask = (l > 0) & (l <= W // 2) & (l < L)
            more, _ = overlapping(planes, window, basis, W // 2 - l, mask, here, W, hop, F, T)
            sums += more
        if first + BLOCK + W // 2 >= L:
            mask = (l + 1 < L) & (l + 1 + W // 2 >= L)
            at = 2 * (L - 1) - l + W // 2
            more, _ = overlapping(planes, window, basis, at, mask, here, W, hop, F, T)
            sums += more
    else:
        reached = weight > 1e-11
        sums = tl.where(reached[None, :], sums / tl.where(reached, weight, 1.0)[None, :], 0.0)
    to = samples + series[:, None] * L + l[None, :]
    mask = here[:, None] & (l[None, :] < L)
    tl.store(to, sums.to(samples.dtype.element_ty), mask=mask)


@triton.jit
def overlapping(planes, window, basis, at, mask, here, W, hop, F, T):
    """Sums of the frames that reach places `at` of the padded series, and of their w²."""
    sums = tl.zeros([here.shape[0], at.shape[0]], tl.float32)
    weight = tl.zeros([at.shape[0]], tl.float32)
    for j in range(0, tl.cdiv(W, hop)):
        n, t = at % hop + j * hop, at // hop - j
        reached = mask & (n < W) & (t >= 0) & (t < T)
        frame = tl.zeros_like(sums)
        both = here[:, None] & reached[None, :]
        for f in range(0, F):
            from_ = planes + f * T + t[None, :]
            real = tl.load(from_, mask=both, other=0.0).to(tl.float32)
            imaginary = tl.load(from_ + F * T, mask=both, other=0.0).to(tl.float32)
            cosine = tl.load(basis + f * W + n, mask=reached, other=0.0)
            sine = tl.load(basis + (F + f) * W + n, mask=reached, other=0.0)
            frame += cosine[None, :] * real + sine[None, :] * imaginary
        w = tl.load(window + n, mask=reached, other=0.0).to(tl.float32)
        sums += frame * w[None, :]
        weight += w * w
    return sums, weight


@triton.jit
def inverse_weight_kernel(
    window,  # (W,)
    inverse,  # (L,)
    L,
    W,
    hop,
    T,
    BLOCK: tl.constexpr,
):
    l = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    at = l + W // 2
    weight = tl.zeros([BLOCK], tl.float32)
    for j in range(0, tl.cdiv(W, hop)):
        n, t = at % hop + j * hop, at // hop - j
        w = tl.load(window + n, mask=(n < W) & (t >= 0) & (t < T), other=0.0).to(tl.float32)
        weight += w * w
    reached = weight > 1e-11
    tl.store(inverse + l, tl.where(reached, 1 / tl.where(reached, weight, 1.0), 0.0), mask=l < L)


@functools.cache  # for ever: a CUDA graph may hold its address
def fourier_basis(W: int, first: int, rows: int, inverse: bool, device: torch.device) -> Tensor:
    """cos and -sin of rows first .. first + rows; for the inverse, times what a row counts."""
    basis_GW = fourier_rows(W, first, first + rows, torch.float64, device)
    if inverse:
        f = torch.arange(first, first + rows, device=device)
        # a row stands for itself and its mirror image, but for row 0 and row W / 2
        twice_F = torch.where((f == 0) | (2 * f == W), 1, 2).to(torch.float64) / W
        basis_GW = basis_GW * twice_F.repeat(2)[:, None]
    return basis_GW.to(torch.float32)


def analyse(
    samples_BCL: Tensor,
    window_W: Tensor,
    hop: int,
    first: int,
    rows: int,
    frames: int,
    *,
    inverse: bool,
) -> Tensor:
    """stft, or if `inverse` the gradient of istft."""
    (B, C, L), W = samples_BCL.shape, len(window_W)
    samples, window = samples_BCL.contiguous(), window_W.contiguous()
    planes = samples.new_empty(B, 2 * C, rows, frames)
    if planes.numel():  # an empty grid is an error
        weight = inverse_weight(window, L, hop, frames) if inverse else None
        basis = fourier_basis(W, first, rows, inverse, samples.device)
        size = analysis_tile(rows, B * C * frames)
        grid = (triton.cdiv(rows, size["ROWS"]) * triton.cdiv(B * C * frames, size["BLOCK"]),)
        sizes = B * C, L, W, hop, rows, frames
        how = {"REFLECT": not inverse} | size | OPTIONS
        analysis_kernel[grid](samples, weight, window, basis, planes, *sizes, **how)
    return planes


def analysis_tile(rows: int, n_frames: int) -> dict[str, int]:
    most = min(16, triton.next_power_of_2(rows))
    return {"ROWS": most, "BLOCK": min(2048 // most, 256, triton.next_power_of_2(n_frames))}


def inverse_weight(window: Tensor, L: int, hop: int, frames: int) -> Tensor:
    """1 / the sum of the squares of the windows that reach a sample, or 0 where none does."""
    inverse = torch.empty(L, device=window.device)
    grid = (triton.cdiv(L, 128),)
    inverse_weight_kernel[grid](window, inverse, L, len(window), hop, frames, BLOCK=128, **OPTIONS)
    return inverse


def synthesise(
    planes_BGFT: Tensor, window_W: Tensor, hop: int, first: int, length: int, *, inverse: bool
) -> Tensor:
    """istft, or if not `inverse` the gradient of stft."""
    (B, G, F, T), W = planes_BGFT.shape, len(window_W)
    planes, window = planes_BGFT.contiguous(), window_W.contiguous()
    samples = planes.new_empty(B, G // 2, length)
    if samples.numel():
        basis = fourier_basis(W, first, F, inverse, planes.device)
        n_series = B * G // 2
        size = synthesis_tile(length, n_series)
        grid = (triton.cdiv(n_series, size["SERIES"]) * triton.cdiv(length, size["BLOCK"]),)
        sizes = n_series, length, W, hop, F, T
        how = {"REFLECT": not inverse} | size | OPTIONS
        synthesis_kernel[grid](planes, window, basis, samples, *sizes, **how)
    return samples


def synthesis_tile(length: int, n_series: int) -> dict[str, int]:
    """Several series share a sample's coefficients."""
    return {
        "SERIES": min(4, triton.next_power_of_2(n_series)),
        "BLOCK": min(128, triton.next_power_of_2(length)),
    }


# For tests/test_triton_compile.py: types of arguments ({} is the planes').
SIZES = dict.fromkeys(("n_series", "L", "W", "hop", "F", "T"), "i32")
SHIPPED_ANALYSIS = [
    (
        analysis_kernel,
        {"samples": "*{}", "weight": "*fp32", "window": "*{}", "basis": "*fp32", "planes": "*{}"}
        | SIZES,
        {"REFLECT": reflect} | analysis_tile(rows, 10**6),
    )
    for reflect in (True, False)
    for rows in (1, 4, 32)
]
SHIPPED_SYNTHESIS = [
    (
        synthesis_kernel,
        {"planes": "*{}", "window": "*{}", "basis": "*fp32", "samples": "*{}"} | SIZES,
        {"REFLECT": reflect} | synthesis_tile(512, 10**6),
    )
    for reflect in (True, False)
]
SHIPPED_WEIGHT = [
    (
        inverse_weight_kernel,
        {"window": "*{}", "inverse": "*fp32"} | dict.fromkeys(("L", "W", "hop", "T"), "i32"),
        {"BLOCK": 128},
    )
]
