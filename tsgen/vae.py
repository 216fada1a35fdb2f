"""The continuous family: a variational autoencoder around the tokenizer's encoders and decoders.

    log p(x | y)  ≥  E_q(z|x) log p(x | z)  -  KL(q(z | x) ‖ p(z | y))

    q(z | x) = N(μ(x), diag σ²(x))     one z a series, for all bands together
    p(z | y) = N(m_y, I)               a learned mean for each class; 0 where there is none
    p(x | z) = N(x̂(z), s²_c I)         s²_c of each channel: the best for a batch, or `noise`²

Kingma & Welling 2014 (arXiv 1312.6114). Prior means that depend on the class: Sohn et al. 2015
(NeurIPS), with an encoder and a decoder that do not. The best s² is the mean squared error, which
weighs both terms without a factor to tune: Rybkin et al. 2021 (arXiv 2006.13202), section 3.2. Of a
few series, learned by heart, it would go to 0 and leave nothing between their z: s is never below
`noise`. Free bits: Kingma et al. 2016 (arXiv 1606.04934), appendix C.8.
B series, D = latent_dim.
"""

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsgen.autoencoder import Autoencoder
from tsgen.config import ModelConfig, VaeConfig
from tsgen.quantisers import Projections


class Posterior(NamedTuple):
    """q(z | x) of a batch, a diagonal Gaussian."""

    mean_BD: Tensor
    log_variance_BD: Tensor

    def sample(self, noise_BD: Tensor) -> Tensor:
        """z = μ + σ ε for standard normal ε: the reparameterisation, whose gradient reaches q."""
        return self.mean_BD + (self.log_variance_BD / 2).exp() * noise_BD


class Elbo(NamedTuple):
    """What a training step needs."""

    x_BCL: Tensor  # x̂
    loss: Tensor  # (), nats a number of the series: minus the bound, with free bits
    parts: dict[str, Tensor]  # nats a series, detached: reconstruction, kl


class Vae(Autoencoder[Projections]):
    """Encoders, a Gaussian between, and decoders."""

    counts_Y: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.tokenizer, lambda tokenizer, _: Projections(tokenizer))
        tokenizer, vae = config.tokenizer, cast(VaeConfig, config.vae)
        self.sizes = [tokenizer.n_places(b) * tokenizer.code_dim for b in range(tokenizer.bands)]
        self.latent_dim, self.noise, self.free_bits = vae.latent_dim, vae.noise, vae.free_bits
        self.n_classes, D = config.n_classes, vae.latent_dim
        self.posterior = nn.Linear(sum(self.sizes), 2 * D)
        self.spread = nn.Linear(D, sum(self.sizes))
        self.means_YD = nn.Parameter(torch.zeros(self.n_classes, D))
        self.register_buffer("counts_Y", torch.ones(self.n_classes))  # of the training series

    def forward(self, x_BCL: Tensor, class_B: Tensor, noise_BD: Tensor) -> Elbo:
        """The bound of a batch.

        x_BCL:     (B, C, length) float32, scaled
        class_B:   (B,) int64 class ids; not looked at where there are no classes
        noise_BD:  (B, latent_dim) standard normal
        returns:   Elbo
        raises:    ArgumentError for another shape
        """
        q = self.encode(x_BCL)
        x_hat = self.decode(q.sample(noise_BD))
        nats = gaussian_nats(x_BCL, x_hat, self.noise)
        kl_BD = divergence(*q, self.prior_means(class_B))
        loss = nats + free(kl_BD, self.free_bits)
        parts = {"reconstruction": nats, "kl": kl_BD.sum(1).mean()}
        return Elbo(x_hat, loss / x_BCL[0].numel(), {k: v.detach() for k, v in parts.items()})

    def encode(self, x_BCL: Tensor) -> Posterior:
        """q(z | x) of series (B, C, length)."""
        inner = self.prepare(x_BCL)
        rows = []
        for band in self.each():
            x_MD = band.codebook.down(band.latents(inner, self.window_W))
            rows.append(x_MD.reshape(len(x_BCL), -1))  # of one series it is a transposed view
        both = self.posterior(torch.cat(rows, 1)).to(self.window_W.dtype)  # bfloat16 under autocast
        return Posterior(*both.chunk(2, 1))

    def decode(self, z_BD: Tensor) -> Tensor:
        """x̂ (B, C, length) of z (B, latent_dim)."""
        series = []
        for band, x_BP in zip(self.each(), self.spread(z_BD).split(self.sizes, 1), strict=True):
            z_BND = band.codebook.up(x_BP.unflatten(1, (-1, self.config.code_dim)))
            series.append(band.series(z_BND, self.window_W))
        return torch.stack(series).sum(0)

    def prior_means(self, class_B: Tensor) -> Tensor:
        """m (B, latent_dim) of classes."""
        if not self.n_classes:
            return self.means_YD.new_zeros(len(class_B), self.latent_dim)
        return F.embedding(class_B, self.means_YD)

    @torch.no_grad()
    def see(self, classes: Tensor) -> None:
        """Count the classes (n,) of the training set: who asks for none gets these."""
        if self.n_classes:
            self.counts_Y.copy_(classes.bincount(minlength=self.n_classes))

    def drawn_classes(self, class_B: Tensor, u_B: Tensor) -> Tensor:
        """Class ids with a class for all: n_classes, none, becomes one by a uniform number."""
        if not self.n_classes:
            return class_B
        edges_Y = self.counts_Y.double().cumsum(0)
        drawn_B = torch.searchsorted(edges_Y / edges_Y[-1], u_B, right=True)
        return torch.where(class_B == self.n_classes, drawn_B, class_B)


def gaussian_nats(x_BCL: Tensor, mean_BCL: Tensor, least: float) -> Tensor:
    """Mean of -log N(x; mean, diag s²) a series, in nats: L / 2 Σ_c (log 2π s²_c + e_c / s²_c).

    s²_c is what makes it least, the mean squared error e_c, but not below least².
    """
    error_C = (x_BCL - mean_BCL).square().mean((0, 2))
    variance_C = error_C.detach().clamp_min(least**2)
    return x_BCL.shape[2] / 2 * ((2 * math.pi * variance_C).log() + error_C / variance_C).sum()


def divergence(mean_BD: Tensor, log_variance_BD: Tensor, prior_mean_BD: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(m, 1)) = (σ² + (μ - m)² - 1 - log σ²) / 2 of each number: (B, D) nats.

    Kingma & Welling 2014, appendix B, with a mean for the prior.
    """
    square_BD = (mean_BD - prior_mean_BD).square()
    return (log_variance_BD.exp() + square_BD - 1 - log_variance_BD) / 2


def free(kl_BD: Tensor, least: float) -> Tensor:
    """Σ_d max(λ, mean over the batch of KL_d): what a dim costs below λ nats is not felt."""
    return kl_BD.mean(0).clamp_min(least).sum()
