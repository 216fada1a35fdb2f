"""Stage 1: series to tokens and back.

    x -> stft -> rows of one band -> encoder -> code -> decoder -> istft -> x̂

Encoders and decoders are those of autoencoder.py, the codes those of a quantiser.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen.autoencoder import Autoencoder
from tsgen.config import TokenizerConfig
from tsgen.quantisers import Quantised, Quantiser, perplexity, quantiser


class Reconstruction(NamedTuple):
    """What a training step of stage 1 needs."""

    x_BCL: Tensor  # the sum over the bands
    loss: Tensor  # (), everything together
    parts: dict[str, Tensor]  # the loss of each band, detached
    counts: list[Tensor]  # codes used in this batch, per band: (K,) int64
    latents: list[Tensor]  # before quantisation, per band: (B, N, hidden_dim), of any length
    quantised: list[Tensor]  # and after it, as the decoder gets them


class Tokenizer(Autoencoder[Quantiser]):
    """The whole of stage 1."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config, quantiser)

    def forward(self, x_BCL: Tensor) -> Reconstruction:
        """Reconstruct a batch, with the loss of stage 1.

        x_BCL:    (B, C, length) float32, scaled
        returns:  Reconstruction. The low band is judged by its mean squared error, the high one
                  by its mean absolute error, each against its own part of x
        raises:   ArgumentError for another shape
        """
        inner = self.prepare(x_BCL)
        total = torch.zeros_like(x_BCL)
        loss, parts, counts = x_BCL.new_zeros(()), {}, []
        latents, quantised = [], []
        for i, (band, target) in enumerate(zip(self.each(), self.targets(inner), strict=True)):
            latents.append(band.latents(inner, self.window_W))
            q: Quantised = band.codebook(latents[-1], unit=True)
            quantised.append(q.z_BND)
            x_hat = band.series(q.z_BND, self.window_W)
            error = (F.mse_loss if i == 0 else F.l1_loss)(x_hat, target)
            loss = loss + error + q.loss
            parts[f"reconstruction_{i}"] = error.detach()
            parts[f"codebook_{i}"] = q.loss.detach()
            counts.append(q.counts_K)
            total = total + x_hat
        return Reconstruction(total, loss, parts, counts, latents, quantised)

    @torch.no_grad()
    def encode(self, x_BCL: Tensor) -> list[Tensor]:
        """Token ids of every band: (B, N) int64 each, rows first, then time."""
        inner = self.prepare(x_BCL)
        latents = [band.latents(inner, self.window_W) for band in self.each()]
        pairs = zip(self.each(), latents, strict=True)
        return [band.codebook.encode(z_BND, unit=True) for band, z_BND in pairs]

    @torch.no_grad()
    def decode(self, ids: list[Tensor]) -> Tensor:
        """Series (B, C, length) of token ids, as `encode` gives them."""
        series = [
            band.series(band.codebook.decode(ids_BN), self.window_W)
            for band, ids_BN in zip(self.each(), ids, strict=True)
        ]
        return torch.stack(series).sum(0)


def code_use(counts: list[Tensor]) -> dict[str, float]:
    """Perplexity and the share of codes in use, per band."""
    report = {}
    for i, counts_K in enumerate(counts):
        report[f"perplexity_{i}"] = perplexity(counts_K)
        report[f"usage_{i}"] = float((counts_K > 0).double().mean())
    return report
