"""The native ops of series and planes: what a kernel is given, and what is made of what it gives.

Each function has the signature of its op after `run`, the kernel with whatever starts it
(native.py). Kernels see only addresses: what they take for granted, a dtype, a device, a contiguous
layout, callers have checked or functions here see to.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from tsgen.errors import bad_value
from tsgen.native import Kernel, float32, new_float32
from tsgen.ops.separable_conv import KINDS, out_width
from tsgen.ops.stft import n_frames


def stft(run: Kernel, x_BCL: Tensor, window_W: Tensor, hop: int, first: int, end: int) -> Tensor:
    T = n_frames(x_BCL.shape[2], len(window_W), hop)
    return series_to_planes(run, x_BCL, window_W, hop, first, end - first, T)


def istft_backward(
    run: Kernel, grad_BCL: Tensor, window_W: Tensor, hop: int, first: int, rows: int, frames: int
) -> Tensor:
    return series_to_planes(run, grad_BCL, window_W, hop, first, rows, frames)


def series_to_planes(
    run: Kernel, x_BCL: Tensor, window_W: Tensor, hop: int, first: int, rows: int, frames: int
) -> Tensor:
    B, C, L = x_BCL.shape
    planes_BGFT = x_BCL.new_empty(B, 2 * C, rows, frames)
    sizes = B * C, L, len(window_W), hop, first, rows, frames
    run([x_BCL.contiguous(), *float32(window_W), planes_BGFT], sizes)
    return planes_BGFT


def istft(
    run: Kernel, planes_BGFT: Tensor, window_W: Tensor, hop: int, first: int, length: int
) -> Tensor:
    B, G, F, T = planes_BGFT.shape
    x_BCL = planes_BGFT.new_empty(B, G // 2, length)
    sizes = B * G // 2, length, len(window_W), hop, first, F, T
    run([planes_BGFT.contiguous(), *float32(window_W), x_BCL], sizes)
    return x_BCL


stft_backward = istft  # the same tensors and sizes


def separable_conv(run: Kernel, x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *weights, kind, stats = args
    B, _, H, W = x.shape
    O = len(weights[5])
    y = x.new_empty(B, O, H, out_width(W, kind))
    mean_O, var_O = (x.new_empty(O if stats else 0) for _ in range(2))
    wanted = [mean_O, var_O] if stats else [None, None]
    inputs = [x.contiguous(), *float32(*weights)]
    run([*inputs, y, *wanted], separable_sizes(x, weights, kind))
    return y, mean_O, var_O


def separable_conv_backward(
    run: Kernel,
    grad: Tensor,
    grad_mean_O: Tensor,
    grad_var_O: Tensor,
    y: Tensor,
    mean_O: Tensor,
    x: Tensor,
    *args: Any,
) -> list[Tensor]:
    *weights, kind, stats = args
    statistics = [grad_mean_O.contiguous(), grad_var_O.contiguous(), y, mean_O]
    given = [grad.contiguous(), *(statistics if stats else [None] * 4)]
    inputs = [x.contiguous(), *float32(*weights)]
    # an op cannot return None
    grads = [x.new_empty(0) if t is None else torch.empty_like(t) for t in inputs]
    wanted = [None if t is None else grad for grad, t in zip(grads, inputs, strict=True)]
    run([*given, *inputs, *wanted], separable_sizes(x, weights, kind))
    pairs = zip(grads, (x, *weights), strict=True)
    return [grad if t is None else grad.to(t.dtype) for grad, t in pairs]


def separable_sizes(x: Tensor, weights: Sequence[Tensor | None], kind: str) -> tuple[int, ...]:
    taps, weight = weights[3], cast(Tensor, weights[5])
    rows = 1 if taps is None else taps.shape[2]
    return *x.shape, len(weight), rows, list(KINDS).index(kind)


def sum_taps(
    run: Kernel, products_BMTF: Tensor, source_N: Tensor, bias_F: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (B, M, T, F), N = products_BMTF.shape, len(source_N)
    if int(source_N.min()) < 0 or int(source_N.max()) >= M:
        got = f"{source_N.min()} to {source_N.max()}"
        raise bad_value("source", f"tokens from 0 to {M - 1}", got)
    h_BNF = products_BMTF.new_empty(B, N, F)
    mean_F, var_F = (products_BMTF.new_empty(F) for _ in range(2))
    inputs = [products_BMTF.contiguous(), source_N.contiguous(), *float32(bias_F)]
    run([*inputs, h_BNF, mean_F, var_F], (B, M, T, F, N))
    return h_BNF, mean_F, var_F


def sum_taps_backward(
    run: Kernel,
    grad: Tensor,
    grad_mean_F: Tensor,
    grad_var_F: Tensor,
    mean_F: Tensor,
    products_BMTF: Tensor,
    source_N: Tensor,
    bias_F: Tensor,
) -> tuple[Tensor, Tensor]:
    given = [t.contiguous() for t in (grad, grad_mean_F, grad_var_F, mean_F, products_BMTF)]
    (bias,) = float32(bias_F)
    grads = products_BMTF.new_empty(products_BMTF.shape), products_BMTF.new_empty(len(bias_F))
    sizes = *products_BMTF.shape, len(source_N)
    run([*given, source_N.contiguous(), bias, *grads], sizes)
    return grads[0], grads[1].to(bias_F.dtype)


def snake(
    run: Kernel, x: Tensor, a_C: Tensor, gain_C: Tensor | None, shift_C: Tensor | None
) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    run([x, *float32(a_C, gain_C, shift_C), out], rows_of_channels(x))
    return out


def snake_backward(
    run: Kernel,
    grad: Tensor,
    x: Tensor,
    a_C: Tensor,
    gain_C: Tensor | None,
    shift_C: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, grad = x.contiguous(), grad.contiguous()
    channels, n = float32(a_C, gain_C, shift_C), 0 if gain_C is None else len(a_C)
    grad_x, sums = torch.empty_like(x), [new_float32(x, m) for m in (len(a_C), n, n)]
    run(
        [grad, x, *channels, grad_x, sums[0], *(sums[1:] if n else [None] * 2)], rows_of_channels(x)
    )
    grad_a, grad_gain, grad_shift = (t.to(a_C.dtype) for t in sums)
    return grad_x, grad_a, grad_gain, grad_shift


def rows_of_channels(x: Tensor) -> tuple[int, int, int]:
    """(B, C, ...) as B x C rows of S numbers."""
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])
