"""The slow network whose embeddings BYOL predicts: ξ ← τ ξ + (1 - τ) θ after each step."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tsgen.layers import ResBlock
from tsgen.ssl.heads import pooled, unit


class Target(nn.Module):
    """Copies of the encoders and of the projector, which no gradient reaches."""

    def __init__(self, encoders: list[nn.Module], projector: nn.Module) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(copy.deepcopy(encoder) for encoder in encoders)
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
        embedding: Tensor = self.projector(pooled(unit(latents)))
        return embedding

    def follow(self, encoders: list[nn.Module], projector: nn.Module, momentum: float) -> None:
        """Move towards the trained weights, by 1 - momentum of the way."""
        online = [p for module in (*encoders, projector) for p in module.parameters()]
        mine = itertools.chain(self.encoders.parameters(), self.projector.parameters())
        get_ema_multi_avg_fn(momentum)(list(mine), online, 0)
