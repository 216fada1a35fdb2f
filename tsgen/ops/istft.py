"""Inverse short-time Fourier transform; rows that are not given count as zero.

    y[l] = sum_t w[n] irfft(X[:, t])[n] / sum_t w[n]²        n = l + W//2 - t*hop, where 0 <= n < W

Overlap-add as a gather: every sample sums the at most ceil(W / hop) frames that reach it.
Griffin & Lim 1984, eq. 6. The imaginary parts of row 0 and row W/2 do not count.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.stft import (
    BENCH_SHAPES,
    GPU_SHAPES,
    TEST_SHAPES,
    Shape,
    bytes_moved,
    compute_dtype,
    error,
    fourier_rows,
    n_frames,
)

__all__ = ["BENCH_SHAPES", "GPU_SHAPES", "TEST_SHAPES", "bytes_moved", "error", "istft"]


def istft(
    planes_BGFT: Tensor,
    window_W: Tensor,
    hop: int,
    first: int,
    length: int,
    *,
    backend: str | None = None,
) -> Tensor:
    """Series whose spectrogram is closest to the given planes.

    planes_BGFT:  (B, 2C, F, T) float, planes as `stft` gives them: rows first .. first + F
    window_W:     (W,) same dtype, the one `stft` had
    hop:          samples between frames
    first:        frequency of the first row
    length:       samples to return, at most (T - 1) * hop + (W + 1) // 2
    returns:      (B, C, length) same dtype; 0 where no window reaches. Differentiable in planes.
    raises:       ArgumentError for a shape, row or length that does not fit
    """
    check(planes_BGFT, window_W, hop, first, length)
    args = (planes_BGFT, window_W, hop, first, length)
    how: dict[str, Any] = {"backend": backend, "like": planes_BGFT, "gradient": Gradient}
    return cast(Tensor, dispatch.call("istft", baseline, *args, **how))


def _fake(
    planes_BGFT: Tensor,
    window_W: Tensor,
    hop: int,
    first: int,
    length: int,
    backend: str | None = None,
) -> Tensor:
    return planes_BGFT.new_empty(planes_BGFT.shape[0], planes_BGFT.shape[1] // 2, length)


def _fake_backward(
    grad_BCL: Tensor,
    window_W: Tensor,
    hop: int,
    first: int,
    rows: int,
    frames: int,
    backend: str | None = None,
) -> Tensor:
    return grad_BCL.new_empty(grad_BCL.shape[0], 2 * grad_BCL.shape[1], rows, frames)


dispatch.register(
    "istft(Tensor planes, Tensor window, int hop, int first, int length, *, str? backend=None)"
    " -> Tensor",
    fake=_fake,
)
dispatch.register(
    "istft_backward(Tensor grad, Tensor window, int hop, int first, int rows, int frames, *,"
    " str? backend=None) -> Tensor",
    fake=_fake_backward,
)


class Gradient(torch.autograd.Function):
    """The adjoint: frames of the gradient over the windows' weight, transformed forward."""

    @staticmethod
    def forward(
        ctx: Any,
        planes: Tensor,
        window: Tensor,
        hop: int,
        first: int,
        length: int,
        backend: str | None,
    ) -> Any:
        # as in attention.py: named for torch.compile, and no setup_context, which is slow
        ctx.save_for_backward(window)
        ctx.hop, ctx.first, ctx.backend = hop, first, backend
        ctx.rows, ctx.frames = planes.shape[2:]
        return torch.ops.tsgen.istft.default(planes, window, hop, first, length, backend=backend)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        args = (grad, *ctx.saved_tensors, ctx.hop, ctx.first, ctx.rows, ctx.frames)
        dplanes = torch.ops.tsgen.istft_backward.default(*args, backend=ctx.backend)
        return dplanes, None, None, None, None, None


def check(planes_BGFT: Tensor, window_W: Tensor, hop: int, first: int, length: int) -> None:
    """Everything a backend may rely on."""
    if planes_BGFT.dim() != 4 or planes_BGFT.shape[1] % 2:
        raise bad_value("planes", "(B, 2C, F, T)", tuple(planes_BGFT.shape))
    F_rows, T = planes_BGFT.shape[2:]
    W = len(window_W) if window_W.dim() == 1 else 0
    if not W or window_W.dtype != planes_BGFT.dtype:
        got = (tuple(window_W.shape), window_W.dtype)
        raise bad_value("window", f"(W,) {planes_BGFT.dtype}", got)
    if hop < 1:
        raise bad_value("hop", "at least 1", hop)
    if not 0 <= first < first + F_rows <= W // 2 + 1:
        raise bad_value("rows", f"0 <= first < end <= {W // 2 + 1}", (first, first + F_rows))
    if not 0 < length <= (T - 1) * hop + (W + 1) // 2:
        raise bad_value("length", f"1 to {(T - 1) * hop + (W + 1) // 2}", length)


def reference(planes_BGFT: Tensor, window_W: Tensor, hop: int, first: int, length: int) -> Tensor:
    """The definition, for tests: one frame at a time. Never optimise this."""
    B, G, F_rows, T = planes_BGFT.shape
    W, C = len(window_W), G // 2
    if B == 0:
        return planes_BGFT.new_empty(B, C, length)
    parts = planes_BGFT.reshape(B, C, 2, F_rows, T)
    spectrum = torch.complex(parts[:, :, 0], parts[:, :, 1])
    spectrum = F.pad(spectrum, (0, 0, first, W // 2 + 1 - first - F_rows))
    frames_BCWT = torch.fft.irfft(spectrum, W, dim=2) * window_W[:, None]
    total = planes_BGFT.new_zeros(B, C, (T - 1) * hop + W)
    weight = planes_BGFT.new_zeros((T - 1) * hop + W)
    for t in range(T):
        total[:, :, t * hop : t * hop + W] += frames_BCWT[..., t]
        weight[t * hop : t * hop + W] += window_W.square()
    inside = slice(W // 2, W // 2 + length)
    return torch.where(weight > 1e-11, total / weight, 0)[:, :, inside]


def baseline(planes_BGFT: Tensor, window_W: Tensor, hop: int, first: int, length: int) -> Tensor:
    """One matrix product to windowed frames, then as many shifted sums as frames overlap."""
    B, G, F_rows, T = planes_BGFT.shape
    W, dtype = len(window_W), compute_dtype(planes_BGFT)
    window_W = window_W.to(dtype)
    f = torch.arange(first, first + F_rows, device=planes_BGFT.device)
    # a row stands for itself and its mirror image, but for row 0 and row W / 2
    twice_F = torch.where((f == 0) | (2 * f == W), 1, 2).to(dtype) / W
    basis_GW = fourier_rows(W, first, first + F_rows, dtype, planes_BGFT.device)
    basis_GW = basis_GW * twice_F.repeat(2)[:, None] * window_W
    planes = planes_BGFT.to(dtype).reshape(B * G // 2, 2 * F_rows, T)
    total = overlap_add(basis_GW.T @ planes, hop)
    weight = overlap_add(window_W.square()[None, :, None].expand(1, W, T), hop)
    inside = slice(W // 2, W // 2 + length)
    y = total[:, inside] * inverse(weight[:, inside])
    return y.reshape(B, G // 2, length).to(planes_BGFT.dtype)


def overlap_add(frames_XWT: Tensor, hop: int) -> Tensor:
    """Frames summed where they overlap: (X, (T - 1) * hop + W or a little more)."""
    X, W, T = frames_XWT.shape
    parts = -(-W // hop)  # of hop samples; part j of frame t lands in piece t + j
    frames = F.pad(frames_XWT, (0, 0, 0, parts * hop - W)).view(X, parts, hop, T)
    pieces = [F.pad(frames[:, j], (j, parts - 1 - j)) for j in range(parts)]
    return torch.stack(pieces).sum(0).mT.reshape(X, (T + parts - 1) * hop)


def inverse(weight: Tensor) -> Tensor:
    """1 / weight, or 0 where no window reaches."""
    reached = weight > 1e-11
    return torch.where(reached, 1 / torch.where(reached, weight, 1), 0)


# Read by tests/test_ops.py and benchmarks; shapes are those of the stft it inverts.

TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 3e-2, torch.float16: 4e-3}
DIFFERENTIABLE = (0,)


def make_inputs(
    shape: Shape, device: str, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, int, int, int]:
    B, C, L, W, hop, first, end = shape
    rng = torch.Generator().manual_seed(seed)
    planes = torch.randn(B, 2 * C, end - first, n_frames(L, W, hop), generator=rng)
    window_W = (torch.hann_window(W, dtype=torch.float64) + 0.1) / W**0.5
    return planes.to(device, dtype), window_W.to(device, dtype), hop, first, L
