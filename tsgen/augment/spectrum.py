"""Augmentations of the spectrum of whole series: their real Fourier transform, F bins.

Bin 0, the mean, stays as it is. Masks: Park et al. 2019 (SpecAugment), over the bins of the whole
series; phases and amplitudes: Gao et al. 2020, "RobustTAD".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tsgen.augment.draws import Draws
from tsgen.checks import number


@dataclass(frozen=True)
class FrequencyMask:
    """A band of up to a share of the octaves is missing."""

    share: float = 0.2

    def __post_init__(self) -> None:
        number("share", self.share, below=1)

    def __call__(self, x_BCL: Tensor, draws: Draws) -> Tensor:
        mask_BF = draws.span(octaves(x_BCL), self.share)
        return changed(x_BCL, torch.where(mask_BF, 0.0, 1.0)[:, None])


@dataclass(frozen=True)
class PhaseShift:
    """Every frequency of every channel turned by std ε radians."""

    std: float = 0.3

    def __post_init__(self) -> None:
        number("std", self.std)

    def __call__(self, x_BCL: Tensor, draws: Draws) -> Tensor:
        _, C, L = x_BCL.shape
        angle_BCF = self.std * draws.normal(C, L // 2)
        # the last bin of an even length is real: it has no phase to turn
        angle_BCF = angle_BCF[..., : (L - 1) // 2]
        turn_BCF = torch.polar(torch.ones_like(angle_BCF), angle_BCF)
        return changed(x_BCL, turn_BCF)


@dataclass(frozen=True)
class BandGain:
    """A band of up to a share of the octaves times 1 + std ε, one ε a channel."""

    share: float = 0.4
    std: float = 0.5

    def __post_init__(self) -> None:
        number("share", self.share, below=1)
        number("std", self.std)

    def __call__(self, x_BCL: Tensor, draws: Draws) -> Tensor:
        band_B1F = draws.span(octaves(x_BCL), self.share)[:, None]
        return changed(x_BCL, 1 + self.std * draws.normal(x_BCL.shape[1], 1) * band_B1F)


def octaves(x_BCL: Tensor) -> Tensor:
    """Where bins 1, 2, ... lie in (0, 1) in the logarithm of frequency.

    Most of the power of most series is in few low bins: a span of bins would hardly ever meet it.
    """
    n = x_BCL.shape[2] // 2
    # bin k reaches from k - 1/2 to k + 1/2
    return (2 * torch.arange(1, n + 1, device=x_BCL.device)).log() / math.log(2 * n + 1)


def changed(x_BCL: Tensor, factor_BCF: Tensor) -> Tensor:
    """x with bins 1, 2, ... of its spectrum multiplied; bins beyond the factors stay."""
    spectrum_BCF = torch.fft.rfft(x_BCL)
    mean, inner, rest = spectrum_BCF.tensor_split((1, 1 + factor_BCF.shape[2]), dim=2)
    whole = torch.cat([mean, inner * factor_BCF, rest], 2)
    out_BCL: Tensor = torch.fft.irfft(whole, n=x_BCL.shape[2])
    return out_BCL
