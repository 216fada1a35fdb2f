"""Random numbers of a batch of series: a function of (key, series, place), not of the batch.

By Philox (see tsgen/ops/philox.py) on the CPU, then moved: the same on any device. The counter's
sample is the index of the series, its step counts the draws of one composition, its band is the
view. B series.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tsgen import ops


class Draws:
    """Each call draws anew; the same calls in the same order draw the same numbers."""

    def __init__(
        self, key: int, index_B: Tensor, device: torch.device | str = "cpu", view: int = 0
    ) -> None:
        """key: 64 bits; index_B: (B,) int64 on the CPU; view: below 2**16."""
        self.key, self.index_B, self.view = key, index_B, view
        self.device = torch.device(device)
        self.n_calls = 0

    def uniform(self, *size: int) -> Tensor:
        """(B, *size) float32 in [0, 1]."""
        return self.sent(torch.cat(ops.uniforms(self.words(math.prod(size))), 1), size)

    def normal(self, *size: int) -> Tensor:
        """(B, *size) float32, mean 0 and standard deviation 1."""
        return self.sent(ops.normals(self.words(math.prod(size))), size)

    def span(self, place_N: Tensor, share: float) -> Tensor:
        """(B, N) bool: which of the places (N,) in (0, 1) lie in a span, up to `share` long."""
        u_B1, v_B1 = self.uniform(2).split(1, dim=1)
        length_B1 = share * u_B1
        start_B1 = (1 - length_B1) * v_B1
        inside_BN: Tensor = (place_N >= start_B1) & (place_N < start_B1 + length_B1)
        return inside_BN

    def words(self, n: int) -> Tensor:
        """Of each pair of n numbers: (B, ceil(n / 2), 4) int64."""
        self.n_calls += 1
        step = self.n_calls - 1
        return ops.philox(self.key, self.index_B, -(-n // 2), step=step, band=self.view)

    def sent(self, x_BN: Tensor, size: tuple[int, ...]) -> Tensor:
        """Those wanted, to the device; from pinned memory, so that nothing waits for it."""
        x = x_BN[:, : math.prod(size)].float().view(len(x_BN), *size)
        x = x.pin_memory() if self.device.type == "cuda" else x
        moved: Tensor = x.to(self.device, non_blocking=True)
        return moved
