"""Augmentations of time, the same for all channels of a series, which keep its length.

Window warping and slicing: Le Guennec et al. 2016; slices in another order: Um et al. 2017
(permutation); masks: Park et al. 2019 (SpecAugment).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen.augment.draws import Draws
from tsgen.checks import number, whole


@dataclass(frozen=True)
class CropResize:
    """A window of at least a share `least` of the series, stretched to its length."""

    least: float = 0.6

    def __post_init__(self) -> None:
        number("least", self.least, below=1, more=True)

    def __call__(self, x_BCL: Tensor, draws: Draws) -> Tensor:
        L = x_BCL.shape[2]
        u_B1, v_B1 = draws.uniform(2).split(1, dim=1)
        share_B1 = self.least + (1 - self.least) * u_B1
        start_B1 = v_B1 * (1 - share_B1) * (L - 1)
        return resampled(x_BCL, start_B1 + share_B1 * torch.arange(L, device=x_BCL.device))


@dataclass(frozen=True)
class WindowWarp:
    """A window of the series takes `low` to `high` times as long, and the whole is brought to L."""

    window: float = 0.4  # share of the series
    low: float = 0.5
    high: float = 2.0

    def __post_init__(self) -> None:
        for name in ("window", "low", "high"):
            number(name, getattr(self, name), more=True)
        number("window", self.window, below=1)
        number("low", self.low, at_most=self.high)

    def __call__(self, x_BCL: Tensor, draws: Draws) -> Tensor:
        L = x_BCL.shape[2]
        u_B1, v_B1 = draws.uniform(2).split(1, dim=1)
        stretch_B1 = self.low + (self.high - self.low) * u_B1
        start_B1 = v_B1 * (1 - self.window)
        end_B1 = start_B1 + stretch_B1 * self.window
        longer_B1 = (stretch_B1 - 1) * self.window
        t_BL = (1 + longer_B1) * torch.arange(L, device=x_BCL.device) / (L - 1)
        inside_BL = start_B1 + (t_BL - start_B1) / stretch_B1
        late_BL = torch.where(t_BL < end_B1, inside_BL, t_BL - longer_B1)
        return resampled(x_BCL, torch.where(t_BL < start_B1, t_BL, late_BL) * (L - 1))


@dataclass(frozen=True)
class SliceShuffle:
    """The series cut at random places into slices, which are put in another order."""

    slices: int = 4

    def __post_init__(self) -> None:
        whole("slices", self.slices, at_least=2, at_most=1000)

    def __call__(self, x_BCL: Tensor, draws: Draws) -> Tensor:
        L, S = x_BCL.shape[2], self.slices
        cuts_BS = (draws.uniform(S - 1) * L).long().clamp_max(L).sort(dim=1).values
        first_BS, end_BS = F.pad(cuts_BS, (1, 0)), F.pad(cuts_BS, (0, 1), value=L)
        order_BS = draws.uniform(S).argsort(dim=1)
        first_BS, length_BS = first_BS.gather(1, order_BS), (end_BS - first_BS).gather(1, order_BS)
        # running sums by a product of whole numbers: on a GPU, cumsum adds in an order of chance
        before_SS = torch.ones(S, S, dtype=torch.int64, device=x_BCL.device).tril()
        new_end_BS = (length_BS[:, None] * before_SS).sum(2)
        place_L = torch.arange(L, device=x_BCL.device)
        slice_BL = (place_L[:, None] >= new_end_BS[:, None]).sum(2)
        moved_BS = first_BS - (new_end_BS - length_BS)
        return gathered(x_BCL, place_L + moved_BS.gather(1, slice_BL))


@dataclass(frozen=True)
class TimeMask:
    """Up to a share of the series in a row is 0, the mean of what stage 1 sees."""

    share: float = 0.2

    def __post_init__(self) -> None:
        number("share", self.share, below=1)

    def __call__(self, x_BCL: Tensor, draws: Draws) -> Tensor:
        L = x_BCL.shape[2]
        place_L = (torch.arange(L, device=x_BCL.device) + 0.5) / L
        return x_BCL.masked_fill(draws.span(place_L, self.share)[:, None], 0.0)


def resampled(x_BCL: Tensor, at_BL: Tensor) -> Tensor:
    """x at fractional places from 0 to L - 1, linearly."""
    L = x_BCL.shape[2]
    at_BL = at_BL.clamp(0, L - 1)
    low_BL = at_BL.long()
    high_BL = (low_BL + 1).clamp_max(L - 1)
    share_BL = at_BL - low_BL
    return gathered(x_BCL, low_BL).lerp(gathered(x_BCL, high_BL), share_BL[:, None])


def gathered(x_BCL: Tensor, place_BL: Tensor) -> Tensor:
    """x at whole places, the same for all channels."""
    return x_BCL.gather(2, place_BL[:, None].expand_as(x_BCL))
