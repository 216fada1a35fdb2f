"""Stage 1 with self-supervision: what is trained beside the tokenizer, and its loss.

    L = reconstruction of the series + codebook + weight × objective(features of two views)

The features of a view are pooled from the unit latents of all bands, so the objective moves only
what the codebook sees. Only the series itself is decoded.

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
from tsgen.ssl import OBJECTIVES
from tsgen.ssl.collapse import effective_rank, feature_std
from tsgen.ssl.heads import pooled, unit
from tsgen.ssl.joint_embedding import Embedded
from tsgen.ssl.target import Target
from tsgen.tokenizer import Tokenizer, code_use


class Learned(NamedTuple):
    """What a training step of stage 1 needs."""

    loss: Tensor  # (), everything together
    objective: Tensor  # (), the objective alone, detached
    features_BF: Tensor  # of the first view, detached
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
        self.target = None
        if self.objective.slow_target:
            self.target = Target(self.encoders(), self.objective.projector)

    def forward(self, x_BCL: Tensor, *views: Tensor) -> Learned:
        """The loss of a batch.

        x_BCL:  (B, C, length) float32, scaled
        views:  one or two augmented views of it; a single one is compared with x itself
        """
        out = self.tokenizer(x_BCL)
        pair = [x_BCL, *views][-2:]
        latents = [out.latents, *(self.latents(view) for view in views)][-2:]
        if self.config.on == "latents":
            first = unit(latents[0])
        else:
            first = out.quantised if len(views) == 1 else self.quantised(latents[0])
        features = pooled(first), pooled(unit(latents[1]))
        slow = () if self.target is None else [self.target(self.planes(x)) for x in pair]
        result: Embedded = self.objective(*features, *slow)
        loss = out.loss + self.weight * result.loss
        return Learned(loss, result.loss.detach(), features[0].detach(), result.z_BE, out.counts)

    def views(self, x_BCL: Tensor, index_B: Tensor) -> list[Tensor]:
        """Augmented views of a batch: each series' by its index, and by one draw of the CPU's
        generator, so that a view does not depend on what else is in the batch.

        index_B:  (B,) int64 on the CPU
        """
        key = int(torch.randint(2**63 - 1, (1,)))
        return [
            augmented(x_BCL, self.config.augmentations, key=key, index_B=index_B, view=view)
            for view in range(self.config.views)
        ]

    def follow(self) -> None:
        """Before each step: move the target, if any, towards the weights the last step left."""
        if self.target is not None:
            self.target.follow(self.encoders(), self.objective.projector, self.config.momentum)

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
