"""The slow network whose embeddings BYOL predicts: ξ ← τ ξ + (1 - τ) θ after each step."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tsgen.layers import ResBlock
from tsgen.quantisers import Quantiser
from tsgen.ssl.heads import before_codes, pooled


class Target(nn.Module):
    """Copies of whatever leads to the embedding of a view before quantisation.

    No gradient reaches them.
    """

    def __init__(
        self, encoders: list[nn.Module], projections: list[Quantiser], projector: nn.Module
    ) -> None:
        super().__init__()
        self.encoders = copy.deepcopy(nn.ModuleList(encoders))
        self.projections = copy.deepcopy(nn.ModuleList(projections))
        self.projector = copy.deepcopy(projector)
        for part in self.encoders.modules():
            if isinstance(part, ResBlock):
                part.dropout = 0.0  # what is predicted is no noisier than it has to be
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, planes: list[Tensor]) -> Tensor:
        """Embeddings (B, E) of the spectrograms of each band."""
        both = zip(self.encoders, planes, strict=True)
        latents = [encoder(planes_BGFT).flatten(2).mT for encoder, planes_BGFT in both]
        embedding: Tensor = self.projector(pooled(before_codes(latents, [*self.projections])))
        return embedding

    def follow(self, online: Iterable[nn.Module], momentum: float) -> None:
        """Move towards the trained weights, by 1 - momentum of the way.

        online:  what this is a copy of, in the same order
        """
        theirs = [p for module in online for p in module.parameters()]
        get_ema_multi_avg_fn(momentum)(list(self.parameters()), theirs, 0)
