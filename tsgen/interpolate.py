"""Linear interpolation in time, with a gradient that nothing adds up by chance.

    y[l] = (1 - s) x[m] + s x[m + 1]        m + s = (l + 1/2) M / L - 1/2, at least 0

PyTorch's gradient on a GPU adds what comes back from every l to two places of x by atomics, in
another order in each run. Here each m gathers from the few l that it reaches.
"""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Between(NamedTuple):
    """Which numbers each place is made of, and which places each number reaches: see `between`."""

    low_L: Tensor
    high_L: Tensor
    share_L: Tensor
    reached_PM: Tensor
    share_PM: Tensor


def interpolate(x_BCM: Tensor, *where: Tensor) -> Tensor:
    """x (B, C, M) to (B, C, length); `where` is what `between` gives for M and length."""
    if x_BCM.device.type == "cpu":  # where PyTorch adds in order
        return F.interpolate(x_BCM, len(where[0]), mode="linear")
    return gathered(x_BCM, *where)


def gathered(x_BCM: Tensor, *where: Tensor) -> Tensor:
    """The same on any device. PyTorch's own on a GPU goes through the batch in a row."""
    return cast(Tensor, cast(Any, Gathered).apply(x_BCM, *where))


class Gathered(torch.autograd.Function):
    """dx[m] = sum of share[p, m] dy[reached[p, m]] over p."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BCM: Tensor,
        low_L: Tensor,
        high_L: Tensor,
        share_L: Tensor,
        reached_PM: Tensor,
        share_PM: Tensor,
    ) -> Any:
        ctx.save_for_backward(reached_PM, share_PM)
        low_BCL, high_BCL = x_BCM.index_select(2, low_L), x_BCM.index_select(2, high_L)
        return torch.lerp(low_BCL, high_BCL, share_L.to(x_BCM.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCL: Tensor) -> Any:
        reached_PM, share_PM = ctx.saved_tensors
        return (grad_BCL[:, :, reached_PM] * share_PM).sum(2), *[None] * 5


def between(n: int, length: int) -> Between:
    """How `length` places lie between n numbers.

    returns: low_L, high_L (length,) int64, the numbers beside each place, and share_L (length,)
             float64, that of the higher one; reached_PM (P, n) int64 ascending and share_PM (P, n)
             float64, of the most places that a number reaches; 0 and 0 where it reaches fewer
    """
    place_L = torch.arange(length, device="cpu")
    at_L = ((place_L.double() + 0.5) * (n / length) - 0.5).clamp_min(0)
    low_L = at_L.long().clamp_max(n - 1)
    high_L, share_L = (low_L + 1).clamp_max(n - 1), at_L - low_L
    # every place is reached from two sides, which may be one and the same number at an end
    source = torch.stack([low_L, high_L], 1).flatten()
    share = torch.stack([1 - share_L, share_L], 1).flatten()
    order = source.argsort(stable=True)
    source, share = source[order], share[order]
    count_M = source.bincount(minlength=n)
    nth = torch.arange(len(source), device="cpu") - (count_M.cumsum(0) - count_M)[source]
    size = int(count_M.max()), n
    reached_PM = torch.zeros(size, dtype=torch.int64, device="cpu")
    share_PM = torch.zeros(size, dtype=torch.float64, device="cpu")
    reached_PM[nth, source], share_PM[nth, source] = order // 2, share
    return Between(low_L, high_L, share_L, reached_PM, share_PM)
