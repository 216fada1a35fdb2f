"""Objectives that embed both views alike and compare the embeddings over the batch."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from tsgen.ssl.heads import in_float32, in_full

Loss = Callable[..., Tensor]


class Embedded(NamedTuple):
    """What an objective makes of a batch."""

    loss: Tensor  # ()
    z_BE: Tensor  # embeddings of the first view, detached


class JointEmbedding(nn.Module):
    """loss(projector(a), projector(b)); the gradient reaches both views."""

    slow_target = False

    def __init__(self, projector: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.projector, self.loss = projector, loss

    def forward(self, a_BF: Tensor, b_BF: Tensor) -> Embedded:
        """a_BF, b_BF: features of the two views of each series, in the same order."""
        a_BE, b_BE = self.projector(a_BF), self.projector(b_BF)
        with in_full(a_BE):
            return Embedded(self.loss(in_float32(a_BE), in_float32(b_BE)), a_BE.detach())


def unit_columns(z_BE: Tensor) -> Tensor:
    """Every feature centred over the batch and of length 1."""
    return nn.functional.normalize(z_BE - z_BE.mean(0), dim=0)


def off_diagonal(c_EE: Tensor) -> Tensor:
    """Sum of the squares beside the diagonal."""
    return (c_EE - c_EE.diagonal().diag()).square().sum()
