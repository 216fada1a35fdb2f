"""Augmentations of the values: every sample stays where it is in time.

Each is a setting and a function of series (B, C, L) and `Draws`. Strengths are in units of the
series: what stage 1 augments is scaled to standard deviation 1. Jitter, scaling, magnitude warping:
Um et al. 2017, "Data augmentation of wearable sensor data"; slope and flip: as NC-VQVAE (2024).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tsgen.augment.draws import Draws
from tsgen.checks import number, one_of, whole


@dataclass(frozen=True)
class Jitter:
    """x + std ε, with ε ~ N(0, 1) for every number."""

    std: float = 0.05

    def __post_init__(self) -> None:
        number("std", self.std)

    def __call__(self, x_BCL: Tensor, draws: Draws) -> Tensor:
        return x_BCL + self.std * draws.normal(*x_BCL.shape[1:])


@dataclass(frozen=True)
class Scaling:
    """x (1 + std ε), one ε a channel."""

    std: float = 0.2

    def __post_init__(self) -> None:
        number("std", self.std)

    def __call__(self, x_BCL: Tensor, draws: Draws) -> Tensor:
        return x_BCL * (1 + self.std * draws.normal(x_BCL.shape[1], 1))


@dataclass(frozen=True)
class Slope:
    """x + std ε t, with t from -1/2 to 1/2, one ε a channel."""

    std: float = 0.3

    def __post_init__(self) -> None:
        number("std", self.std)

    def __call__(self, x_BCL: Tensor, draws: Draws) -> Tensor:
        _, C, L = x_BCL.shape
        t_L = torch.arange(L, device=x_BCL.device) / max(1, L - 1) - 0.5
        return x_BCL + self.std * draws.normal(C, 1) * t_L


@dataclass(frozen=True)
class Flip:
    """-x, or x backwards in time, of a share p of the series."""

    axis: str = "value"  # or "time"
    p: float = 0.5

    def __post_init__(self) -> None:
        one_of("axis", self.axis, ("value", "time"))
        number("p", self.p, at_most=1)

    def __call__(self, x_BCL: Tensor, draws: Draws) -> Tensor:
        flipped = -x_BCL if self.axis == "value" else x_BCL.flip(2)
        return torch.where(draws.uniform(1, 1) < self.p, flipped, x_BCL)


@dataclass(frozen=True)
class MagnitudeWarp:
    """x times a smooth curve about 1 for each channel: a cubic spline through 1 + std ε."""

    std: float = 0.2
    knots: int = 4  # between the ends

    def __post_init__(self) -> None:
        number("std", self.std)
        whole("knots", self.knots, at_least=0, at_most=10_000)

    def __call__(self, x_BCL: Tensor, draws: Draws) -> Tensor:
        _, C, L = x_BCL.shape
        basis_KL = spline_basis(self.knots + 2, L).to(x_BCL.device, non_blocking=True)
        # a sum and no matrix product: that may add up in another order in another batch
        curve_BCL = (draws.normal(C, self.knots + 2, 1) * basis_KL).sum(2)
        return x_BCL * (1 + self.std * curve_BCL)


@functools.lru_cache(maxsize=16)
def spline_basis(n_knots: int, length: int) -> Tensor:
    """(K, L) float32: a cubic spline is linear in what it passes through, evenly spaced here."""
    from scipy.interpolate import CubicSpline  # an import that changes the filters of warnings

    knots = np.linspace(0, length - 1, n_knots)
    basis = CubicSpline(knots, np.eye(n_knots))(np.arange(length))
    return torch.from_numpy(basis.T.astype(np.float32))
