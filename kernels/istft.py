"""Inverse short-time Fourier transform, Triton: every sample gathers the frames that reach it."""

from torch import Tensor

from tsgen.kernels._fourier import (
    OPTIONS,
    SHIPPED_ANALYSIS,
    SHIPPED_SYNTHESIS,
    SHIPPED_WEIGHT,
    analyse,
    synthesise,
)

__all__ = ["OPTIONS", "SHIPPED", "istft", "istft_backward"]


def istft(planes_BGFT: Tensor, window_W: Tensor, hop: int, first: int, length: int) -> Tensor:
    return synthesise(planes_BGFT, window_W, hop, first, length, inverse=True)


def istft_backward(
    grad_BCL: Tensor, window_W: Tensor, hop: int, first: int, rows: int, frames: int
) -> Tensor:
    return analyse(grad_BCL, window_W, hop, first, rows, frames, inverse=True)


SHIPPED = SHIPPED_WEIGHT + [
    entry for entry in SHIPPED_ANALYSIS + SHIPPED_SYNTHESIS if not entry[2]["REFLECT"]
]
