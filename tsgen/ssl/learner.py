"""Stage 1 with self-supervision: what is trained beside the tokenizer, and its loss.

    L = reconstruction of the series + codebook + weight × objective(features of two views)

The features of a view are pooled from the tokens of all bands: their latents, of length 1, as the
codebook sees them; or, `on="codes"`, what the decoder sees, of the first view after quantisation
and of the second before it, so that both lie in one space. Only the series itself is decoded.

Nothing here draws from torch's generator before the tokenizer does: with weight 0 it learns what it
would learn alone, bit for bit.

The encoder normalises each view by the view's own statistics, and only those of the series itself
enter the moving averages: tokens are made of series as they are, never of augmented ones. One pass
over both views would be a little cheaper, and would leave averages of a mixture that no series
comes from. It is the split of Xie et al. 2020 (AdvProp), without second gains and shifts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tsgen import ops
from tsgen.augment import augmented
from tsgen.config import SslConfig
from tsgen.quantisers import Quantiser
from tsgen.ssl import OBJECTIVES
from tsgen.ssl.collapse import effective_rank, feature_std
from tsgen.ssl.heads import before_codes, pooled, unit
from tsgen.ssl.joint_embedding import Embedded
from tsgen.ssl.target import Target
from tsgen.tokenizer import Tokenizer, code_use
from tsgen.train import step_seed


class Learned(NamedTuple):
    """What a training step of stage 1 needs."""

    loss: Tensor  # (), everything together
    objective: Tensor  # (), the objective alone, detached
    features_BF: Tensor  # of the first view's latents, detached
    embedding_BE: Tensor  # of the first view, detached
    counts: list[Tensor]  # codes used in this batch, per band: (K,) int64

    def report(self) -> dict[str, float]:
        """For the log; waits for the device."""
        return code_use(self.counts) | {
            "ssl": float(self.objective),
            "feature_std": feature_std(self.features_BF),
            "feature_rank": effective_rank(self.features_BF),
            "embedding_std": feature_std(self.embedding_BE),
            "embedding_rank": effective_rank(self.embedding_BE),
        }


class Learner(nn.Module):
    """A tokenizer and what teaches it. Only the tokenizer is ever part of a model."""

    def __init__(self, tokenizer: Tokenizer, config: SslConfig) -> None:
        super().__init__()
        self.tokenizer, self.config = tokenizer, config
        kind = OBJECTIVES[config.objective]
        self.weight = kind.WEIGHT if config.weight is None else config.weight
        n_features = tokenizer.config.hidden_dim * tokenizer.config.bands
        self.objective = kind.objective(n_features, config)
        self.target, self.momentum = None, 0.0
        if self.objective.slow_target:
            self.target = Target(self.encoders(), self.projections(), self.objective.projector)
            self.momentum = kind.MOMENTUM if config.momentum is None else config.momentum

    def forward(self, x_BCL: Tensor, *views: Tensor) -> Learned:
        """The loss of a batch.

        x_BCL:  (B, C, length) float32, scaled
        views:  one or two augmented views of it; a single one is compared with x itself
        """
        fresh = not all(band.codebook.has_started() for band in self.tokenizer.each())
        out = self.tokenizer(x_BCL)
        if fresh and self.target is not None:  # the first batch may have scaled a projection
            self.target.follow(self.followed(), 0.0)
        pair = [x_BCL, *views][-2:]
        latents = [out.latents, *(self.latents(view) for view in views)][-2:]
        features = first = pooled(unit(latents[0]))
        second = pooled(before_codes(latents[1], self.projections()))
        if self.config.on == "codes":
            first = pooled(out.quantised if len(views) == 1 else self.quantised(latents[0]))
        slow = () if self.target is None else [self.target(self.planes(x)) for x in pair]
        result: Embedded = self.objective(first, second, *slow)
        loss = out.loss + self.weight * result.loss
        return Learned(loss, result.loss.detach(), features.detach(), result.z_BE, out.counts)

    def views(self, x_BCL: Tensor, index_B: Tensor) -> list[Tensor]:
        """Augmented views of a batch: each series' by its index and by what torch's generator was
        seeded with, so that a view does not depend on what else is in the batch.

        index_B:  (B,) int64 on the CPU
        """
        key = step_seed(torch.initial_seed(), "views")
        return [
            augmented(x_BCL, self.config.augmentations, key=key, index_B=index_B, view=view)
            for view in range(self.config.views)
        ]

    def follow(self) -> None:
        """Before each step: move the target, if any, towards the weights the last step left."""
        if self.target is not None:
            self.target.follow(self.followed(), self.momentum)

    def followed(self) -> list[nn.Module]:
        """What the target is a copy of."""
        return [*self.encoders(), *self.projections(), self.objective.projector]

    def projections(self) -> list[Quantiser]:
        """What latents go through before they are compared: one a band, or none."""
        bands = self.tokenizer.each() if self.config.on == "codes" else []
        return [band.codebook for band in bands]

    def encoders(self) -> list[nn.Module]:
        """One a band."""
        return [band.encoder for band in self.tokenizer.each()]

    def planes(self, x_BCL: Tensor) -> list[Tensor]:
        """Spectrograms of a view, one a band."""
        inner, window_W = self.tokenizer.prepare(x_BCL), self.tokenizer.window_W
        hop = self.tokenizer.config.hop
        return [ops.stft(inner, window_W, hop, band.rows) for band in self.tokenizer.each()]

    def latents(self, x_BCL: Tensor) -> list[Tensor]:
        """(B, N, D) of each band, of a view that leaves no trace in the encoders' averages."""
        bands = zip(self.encoders(), self.planes(x_BCL), strict=True)
        return [traceless(encoder, planes).flatten(2).mT for encoder, planes in bands]

    def quantised(self, latents: list[Tensor]) -> list[Tensor]:
        """The codes of latents (B, N, D), straight-through; the codebooks learn nothing of them."""
        out = []
        for band, z_BND in zip(self.tokenizer.each(), latents, strict=True):
            band.codebook.eval()
            out.append(band.codebook(z_BND, unit=True).z_BND)
            band.codebook.train(self.training)
        return out


def traceless(module: nn.Module, x: Tensor) -> Tensor:
    """module(x) by the batch's own statistics, with its moving averages left as they are."""
    copies = {name: buffer.clone() for name, buffer in module.named_buffers()}
    out: Tensor = functional_call(module, copies, (x,))
    return out
