"""Short-time Fourier transform of real series, only the rows that are asked for.

    X[f, t] = sum_n w[n] x[t*hop + n - W//2] exp(-2πi f n / W)        x reflected at its borders

B series, C channels, L samples, W window length, F rows (frequencies), T = 1 + (L or L-1) // hop
frames. Real and imaginary parts are planes of their own: channel c becomes planes 2c and 2c + 1.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value


def stft(
    x_BCL: Tensor,
    window_W: Tensor,
    hop: int,
    rows: tuple[int, int] | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """Spectrogram of every channel, as planes that a convolution takes as they are.

    x_BCL:     (B, C, L) float, L > W // 2
    window_W:  (W,) same dtype; a scale folded into it scales the result
    hop:       samples between frames
    rows:      (first, end) frequencies, default all W // 2 + 1
    returns:   (B, 2C, end - first, T) same dtype. Differentiable in x.
    raises:    ArgumentError for a series shorter than W // 2 + 1, or rows out of range
    """
    first, end = rows if rows is not None else (0, len(window_W) // 2 + 1)
    check(x_BCL, window_W, hop, first, end)
    args = (x_BCL, window_W, hop, first, end)
    how: dict[str, Any] = {"backend": backend, "like": x_BCL, "gradient": Gradient}
    return cast(Tensor, dispatch.call("stft", baseline, *args, **how))


def n_frames(length: int, n_fft: int, hop: int) -> int:
    """T for a series of `length` samples."""
    return 1 + (length + 2 * (n_fft // 2) - n_fft) // hop


def _fake(
    x_BCL: Tensor, window_W: Tensor, hop: int, first: int, end: int, backend: str | None = None
) -> Tensor:
    B, C, L = x_BCL.shape
    return x_BCL.new_empty(B, 2 * C, end - first, n_frames(L, len(window_W), hop))


def _fake_backward(
    grad_BGFT: Tensor,
    window_W: Tensor,
    hop: int,
    first: int,
    length: int,
    backend: str | None = None,
) -> Tensor:
    return grad_BGFT.new_empty(grad_BGFT.shape[0], grad_BGFT.shape[1] // 2, length)


dispatch.register(
    "stft(Tensor x, Tensor window, int hop, int first, int end, *, str? backend=None) -> Tensor",
    fake=_fake,
)
dispatch.register(
    "stft_backward(Tensor grad, Tensor window, int hop, int first, int length, *,"
    " str? backend=None) -> Tensor",
    fake=_fake_backward,
)


class Gradient(torch.autograd.Function):
    """The adjoint: overlapped windows of the planes, borders folded back onto the series."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, window: Tensor, hop: int, first: int, end: int, backend: str | None
    ) -> Any:
        # as in attention.py: named for torch.compile, and no setup_context, which is slow
        ctx.save_for_backward(window)
        ctx.hop, ctx.first, ctx.length, ctx.backend = hop, first, x.shape[2], backend
        return torch.ops.tsgen.stft.default(x, window, hop, first, end, backend=backend)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        args = (grad, *ctx.saved_tensors, ctx.hop, ctx.first, ctx.length)
        dx = torch.ops.tsgen.stft_backward.default(*args, backend=ctx.backend)
        return dx, None, None, None, None, None


def check(x_BCL: Tensor, window_W: Tensor, hop: int, first: int, end: int) -> None:
    """Everything a backend may rely on."""
    if x_BCL.dim() != 3:
        raise bad_value("x", "(B, C, L)", tuple(x_BCL.shape))
    if window_W.dim() != 1 or len(window_W) < 1 or window_W.dtype != x_BCL.dtype:
        raise bad_value("window", f"(W,) {x_BCL.dtype}", (tuple(window_W.shape), window_W.dtype))
    if hop < 1:
        raise bad_value("hop", "at least 1", hop)
    if x_BCL.shape[2] <= len(window_W) // 2:
        raise bad_value("x", f"more than {len(window_W) // 2} samples", x_BCL.shape[2])
    if not 0 <= first < end <= len(window_W) // 2 + 1:
        raise bad_value("rows", f"0 <= first < end <= {len(window_W) // 2 + 1}", (first, end))


def reference(x_BCL: Tensor, window_W: Tensor, hop: int, first: int, end: int) -> Tensor:
    """The definition, for tests. Never optimise this."""
    B, C, L = x_BCL.shape
    if B * C == 0:
        return _fake(x_BCL, window_W, hop, first, end)
    X = torch.stft(
        x_BCL.reshape(B * C, L), len(window_W), hop, window=window_W, return_complex=True
    )
    parts = torch.view_as_real(X[:, first:end])  # (BC, F, T, 2)
    return parts.permute(0, 3, 1, 2).reshape(B, 2 * C, end - first, -1)


def baseline(x_BCL: Tensor, window_W: Tensor, hop: int, first: int, end: int) -> Tensor:
    """A convolution with the windowed Fourier basis: half the time of torch.stft at W <= 16."""
    (B, C, _L), W = x_BCL.shape, len(window_W)
    dtype = compute_dtype(x_BCL)
    basis_GW = fourier_rows(W, first, end, dtype, x_BCL.device) * window_W.to(dtype)
    x = F.pad(x_BCL.to(dtype), (W // 2, W // 2), mode="reflect")
    planes = F.conv1d(x.reshape(B * C, 1, x.shape[2]), basis_GW[:, None], stride=hop)
    return planes.reshape(B, 2 * C, end - first, planes.shape[2]).to(x_BCL.dtype)


def fourier_rows(
    n_fft: int, first: int, end: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """cos and -sin of rows first..end: (2 * (end - first), n_fft), cosines first."""
    f = torch.arange(first, end, dtype=torch.int64, device=device)
    n = torch.arange(n_fft, dtype=torch.int64, device=device)
    # reduced in integers, so that the angle is exact before it is rounded once
    angle = torch.outer(f, n).remainder(n_fft).to(torch.float64) * (2 * math.pi / n_fft)
    return torch.cat([angle.cos(), -angle.sin()]).to(dtype)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Sums are taken in float32 at least."""
    return x.dtype if x.dtype == torch.float64 else torch.float32


# Read by tests/test_ops.py and benchmarks.

# (B, C, L, W, hop, first, end)
TEST_SHAPES = [
    (0, 1, 8, 4, 1, 0, 3),
    (1, 1, 3, 4, 1, 0, 3),
    (2, 1, 128, 4, 1, 0, 1),
    (2, 3, 127, 4, 1, 1, 3),
    (3, 2, 61, 8, 2, 0, 5),
    (2, 1, 33, 5, 1, 0, 3),
    (2, 1, 50, 6, 3, 1, 4),
    (1, 2, 131, 16, 4, 2, 9),
    (1, 1, 40, 1, 1, 0, 1),
    (2, 1, 47, 5, 5, 1, 2),
    (1, 1, 257, 12, 1, 0, 7),
    (1, 2, 450, 8, 2, 1, 5),
    (2, 1, 131, 16, 1, 3, 4),
    (1, 1, 17, 32, 8, 0, 17),
    (1, 1, 70, 33, 8, 2, 17),
    (1, 1, 300, 64, 16, 0, 33),
]
BENCH_SHAPES = [
    (1024, 1, 128, 4, 1, 0, 3),
    (1024, 1, 512, 8, 2, 0, 5),
    (256, 1, 4096, 8, 2, 0, 5),
    (256, 1, 1024, 16, 4, 0, 9),
    (64, 1, 4096, 64, 16, 0, 33),
]
GPU_SHAPES = [  # that fill one; the last is as small as in a training step
    (100_000, 1, 512, 8, 2, 0, 5),
    (10_000, 1, 4096, 64, 16, 0, 33),
    (1024, 1, 128, 4, 1, 0, 3),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
DIFFERENTIABLE = (0,)

Shape = tuple[int, int, int, int, int, int, int]


def make_inputs(
    shape: Shape, device: str, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, int, int, int]:
    B, C, L, W, hop, first, end = shape
    rng = torch.Generator().manual_seed(seed)
    x_BCL = torch.randn(B, C, L, generator=rng).to(device, dtype)
    window_W = (torch.hann_window(W, dtype=torch.float64) + 0.1) / W**0.5
    return x_BCL, window_W.to(device, dtype), hop, first, end


def error(out: Tensor, ref: Tensor, *inputs: object) -> float:
    """Largest difference, relative to the largest value."""
    return relative_error(out, ref)


def relative_error(out: Tensor, ref: Tensor) -> float:
    if out.shape != ref.shape:
        return math.inf
    if not ref.numel():
        return 0.0
    return float((out.double() - ref).abs().amax() / ref.abs().amax().clamp_min(1e-30))


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read x once, write the planes once."""
    B, C, L, W, hop, first, end = shape
    return B * C * (L + 2 * (end - first) * n_frames(L, W, hop)) * dtype.itemsize
