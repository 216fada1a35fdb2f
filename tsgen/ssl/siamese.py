"""Objectives that predict the embedding of one view from the other, with no negatives.

A predictor stands on one side only, and no gradient reaches the other: that is what keeps both
from agreeing on a constant (Grill et al. 2020; Chen and He 2021).
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from tsgen.ssl.heads import in_float32, in_full
from tsgen.ssl.joint_embedding import Embedded

# of the cosines (B,) between a's prediction and b's target, and the other way round
Loss = Callable[[Tensor, Tensor], Tensor]


class Siamese(nn.Module):
    """loss(cos(predictor(projector(a)), target of b), cos(predictor(projector(b)), target of a)).

    The targets are those of a slow network where the objective has one, else the projections.
    """

    def __init__(
        self, projector: nn.Module, predictor: nn.Module, loss: Loss, *, slow_target: bool
    ) -> None:
        super().__init__()
        self.projector, self.predictor = projector, predictor
        self.loss, self.slow_target = loss, slow_target

    def forward(self, a_BF: Tensor, b_BF: Tensor, *targets_BE: Tensor) -> Embedded:
        """a_BF, b_BF: features of both views; targets_BE: their embeddings by the slow network."""
        embeddings = self.projector(a_BF), self.projector(b_BF)
        a_BE, b_BE = (self.predictor(z_BE) for z_BE in embeddings)
        target_a_BE, target_b_BE = (z_BE.detach() for z_BE in targets_BE or embeddings)
        with in_full(a_BE):
            across = self.loss(cosine(a_BE, target_b_BE), cosine(b_BE, target_a_BE))
        return Embedded(across, embeddings[0].detach())


def cosine(p_BE: Tensor, z_BE: Tensor) -> Tensor:
    """(B,) cosines between predictions and targets."""
    return F.cosine_similarity(in_float32(p_BE), in_float32(z_BE), dim=1)
