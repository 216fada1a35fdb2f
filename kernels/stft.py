"""Short-time Fourier transform, Triton: frames along the lanes, a few rows a program."""

from torch import Tensor

from tsgen.kernels._fourier import OPTIONS, SHIPPED_ANALYSIS, SHIPPED_SYNTHESIS, analyse, synthesise
from tsgen.ops.stft import n_frames

__all__ = ["OPTIONS", "SHIPPED", "stft", "stft_backward"]


def stft(x_BCL: Tensor, window_W: Tensor, hop: int, first: int, end: int) -> Tensor:
    T = n_frames(x_BCL.shape[2], len(window_W), hop)
    return analyse(x_BCL, window_W, hop, first, end - first, T, inverse=False)


def stft_backward(grad_BGFT: Tensor, window_W: Tensor, hop: int, first: int, length: int) -> Tensor:
    return synthesise(grad_BGFT, window_W, hop, first, length, inverse=False)


SHIPPED = [entry for entry in SHIPPED_ANALYSIS + SHIPPED_SYNTHESIS if entry[2]["REFLECT"]]
