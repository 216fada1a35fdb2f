"""Other views of series (B, C, L): augmentations, by name. See docs/ssl.md.

Each is a frozen setting and a function of the series and of random numbers; a composition applies
one after the other. What it draws for a series depends on the key and on the index of that series,
never on the batch, and nothing loops over series.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from tsgen.augment.draws import Draws
from tsgen.augment.spectrum import BandGain, FrequencyMask, PhaseShift
from tsgen.augment.time import CropResize, SliceShuffle, TimeMask, WindowWarp
from tsgen.augment.values import Flip, Jitter, MagnitudeWarp, Scaling, Slope
from tsgen.checks import number, one_of
from tsgen.config import AUGMENTATIONS
from tsgen.errors import bad_type, bad_value

Augmentation = Callable[[Tensor, Draws], Tensor]

NAMED: dict[str, Callable[[], Augmentation]] = {
    "jitter": Jitter,
    "scaling": Scaling,
    "slope": Slope,
    "flip": Flip,
    "magnitude_warp": MagnitudeWarp,
    "crop_resize": CropResize,
    "window_warp": WindowWarp,
    "slice_shuffle": SliceShuffle,
    "time_mask": TimeMask,
    "frequency_mask": FrequencyMask,
    "phase_shift": PhaseShift,
    "band_gain": BandGain,
}


@dataclass(frozen=True)
class Sometimes:
    """An augmentation for a share p of the series only."""

    augmentation: str | Augmentation
    p: float = 0.5

    def __post_init__(self) -> None:
        named(self.augmentation)
        number("p", self.p, at_most=1)

    def __call__(self, x_BCL: Tensor, draws: Draws) -> Tensor:
        chosen_B11 = draws.uniform(1, 1) < self.p
        return torch.where(chosen_B11, named(self.augmentation)(x_BCL, draws), x_BCL)


def augmented(
    x_BCL: Tensor,
    augmentations: Sequence[str | Augmentation],
    *,
    key: int,
    index_B: Tensor | None = None,
    view: int = 0,
) -> Tensor:
    """A view of every series, in float32.

    x_BCL:          (B, C, L), L from 2 on, on any device
    augmentations:  applied in this order; a name stands for the default strength
    key:            the seed, from 0 to 2**64 - 1
    index_B:        (B,) int64 on the CPU, which series these are; None: 0 ... B - 1
    view:           which of several views under one key, below 2**16
    raises:         ArgumentError for an unknown name or another shape, ArgumentTypeError
    """
    if not isinstance(x_BCL, Tensor):
        raise bad_type("x", "a tensor", x_BCL)
    if x_BCL.dim() != 3 or x_BCL.shape[2] < 2:
        raise bad_value("x", "(series, channels, length of 2 or more)", tuple(x_BCL.shape))
    index_B = torch.arange(len(x_BCL)) if index_B is None else index_B
    if index_B.shape != x_BCL.shape[:1]:
        raise bad_value("index_B", f"one of each of {len(x_BCL)} series", tuple(index_B.shape))
    x_BCL = x_BCL.float()
    if len(x_BCL) == 0:
        return x_BCL
    draws = Draws(key, index_B, x_BCL.device, view)
    with torch.autocast(x_BCL.device.type, enabled=False):
        for augmentation in augmentations:
            x_BCL = named(augmentation)(x_BCL, draws)
    return x_BCL


def named(augmentation: str | Augmentation) -> Augmentation:
    """What a name stands for, or the augmentation itself."""
    if callable(augmentation) and not isinstance(augmentation, type):
        return augmentation
    one_of("augmentations", augmentation, AUGMENTATIONS)
    return NAMED[cast(str, augmentation)]()
