"""The vector quantiser: latents to codes and back, and how the codes learn.

Moving averages: van den Oord et al. 2017, appendix A.1. k-means start and dead-code restart:
Dhariwal et al. 2020 (Jukebox). Cosine codes and the projection to few dims: Yu et al. 2022
(ViT-VQGAN). Orthogonal regularisation: Shin et al. 2021, eq. 2.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from tsgen import ops
from tsgen.config import TokenizerConfig

KMEANS_ITERATIONS = 10
SMOOTHING = 1e-5  # of the average counts, so that no sum is divided by 0


class Quantised(NamedTuple):
    """What a codebook makes of a batch of latents."""

    z_BND: Tensor  # (B, N, hidden_dim), what the decoder gets
    ids_BN: Tensor  # int64
    loss: Tensor  # (), commitment and regularisation, weighted
    counts_K: Tensor  # int64, vectors per code in this batch; empty out of training


class Codebook(nn.Module):
    """Codes of few dims, between a projection down and one up.

    They are buffers that follow moving averages; with `orthogonal` above 0 a Parameter that
    follows its gradient.
    """

    codes_KD: Tensor
    counts_K: Tensor
    sums_KD: Tensor
    started: Tensor

    def __init__(self, config: TokenizerConfig, n_codes: int) -> None:
        super().__init__()
        self.config = config
        self.project_in = nn.Linear(config.hidden_dim, config.code_dim)
        self.project_out = nn.Linear(config.code_dim, config.hidden_dim)
        codes_KD = torch.empty(n_codes, config.code_dim)
        nn.init.normal_(codes_KD)
        if config.orthogonal > 0:
            self.codes_KD = nn.Parameter(codes_KD)
        else:
            self.register_buffer("codes_KD", codes_KD)
        self.register_buffer("counts_K", torch.zeros(n_codes))  # moving averages
        self.register_buffer("sums_KD", torch.zeros(n_codes, config.code_dim))
        self.register_buffer("started", torch.tensor(False))
        self.seen_started = False

    def forward(self, z_BND: Tensor, *, unit: bool = False) -> Quantised:
        """Replace every latent by its nearest code, straight-through; learn when training.

        z_BND:    (B, N, hidden_dim) float32
        unit:     whether to bring every latent to length 1 first
        returns:  Quantised. The codes of before this batch are used, then updated
        """
        B, N, _ = z_BND.shape
        x_MD = self.down(z_BND, unit)
        if self.training:
            self.prepare(x_MD.detach())
        codes_KD = self.codes()
        found = ops.nearest_code(x_MD.detach(), codes_KD.detach(), stats=self.training)
        chosen_MD = F.embedding(found.ids_N, codes_KD)
        loss = self.loss(x_MD, chosen_MD) if self.training else x_MD.new_zeros(())
        # forward the code, backward to x as if nothing had happened
        q_MD = x_MD + (chosen_MD.detach() - x_MD).detach()
        if self.training:
            self.update(found)
        z_BND = self.up(q_MD.view(B, N, -1))
        return Quantised(z_BND, found.ids_N.view(B, N), loss, found.counts_K)

    def down(self, z_BND: Tensor, unit: bool = False) -> Tensor:
        """Latents in the codes' own space: (B * N, code_dim), in float32 under autocast too."""
        layer = self.project_in
        with torch.autocast(z_BND.device.type, enabled=False):
            z_BND = z_BND.to(self.codes_KD.dtype)
            if unit:  # W (z / |z|) + b, without z / |z|, which is many times as large
                # in float64, rounded once, it is the same in whatever order it is summed; training
                # does not need that, and backward through it takes three times as long
                dtype = None if self.training else torch.float64
                length_BN1 = torch.linalg.vector_norm(z_BND, dim=-1, keepdim=True, dtype=dtype)
                x_BND = linear(z_BND, layer.weight, torch.zeros_like(layer.bias))
                x_BND = x_BND / length_BN1.clamp_min(1e-12).to(x_BND) + layer.bias
            else:
                x_BND = linear(z_BND, layer.weight, layer.bias)
            x_MD = x_BND.flatten(0, 1)
            return F.normalize(x_MD, dim=-1) if self.config.codebook == "cosine" else x_MD

    def codes(self) -> Tensor:
        """The codes as they are compared and decoded: (K, code_dim), of length 1 if cosine."""
        cosine = self.config.codebook == "cosine"
        return F.normalize(self.codes_KD, dim=-1) if cosine else self.codes_KD

    def up(self, x_BND: Tensor) -> Tensor:
        """Codes (B, N, code_dim) as the decoder gets them: (B, N, hidden_dim)."""
        return linear(x_BND, self.project_out.weight, self.project_out.bias)

    def encode(self, z_BND: Tensor, *, unit: bool = False) -> Tensor:
        """Code ids (B, N) of latents (B, N, hidden_dim). Changes nothing."""
        return ops.nearest_code(self.down(z_BND, unit), self.codes()).ids_N.view(z_BND.shape[:2])

    def decode(self, ids_BN: Tensor) -> Tensor:
        """Latents (B, N, hidden_dim) of code ids (B, N)."""
        # as a table: a product over places would sum in another order for another batch size
        return F.embedding(ids_BN, self.up(self.codes()[None])[0])

    def loss(self, x_MD: Tensor, chosen_MD: Tensor) -> Tensor:
        """Commitment; with codes that learn by gradient also their own pull and orthogonality."""
        loss = self.config.commitment * F.mse_loss(x_MD, chosen_MD.detach())
        if not isinstance(self.codes_KD, nn.Parameter):
            return loss
        pull = F.mse_loss(chosen_MD, x_MD.detach())
        return loss + pull + self.config.orthogonal * orthogonality(self.codes_KD)

    @torch.no_grad()
    def prepare(self, x_MD: Tensor) -> None:
        """Before a training batch: the k-means start, and new places for codes without use."""
        if not self.has_started():
            self.start(x_MD)
        elif self.config.restart_below > 0:
            self.restart(x_MD)

    def has_started(self) -> bool:
        """Whether k-means has run. Once it has, a GPU is not asked, and waited for, again."""
        self.seen_started = self.seen_started or bool(self.started)
        return self.seen_started

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.seen_started = False

    def start(self, x_MD: Tensor) -> None:
        """Set the codes by k-means on vectors of their space (M, code_dim)."""
        codes_KD, counts_K = kmeans(x_MD, len(self.codes_KD), self.config.codebook)
        if dist.is_initialized():
            dist.broadcast(codes_KD, 0)
            dist.broadcast(counts_K, 0)
        self.codes_KD.copy_(codes_KD)
        self.counts_K.copy_(counts_K)
        self.sums_KD.copy_(codes_KD * counts_K[:, None])
        self.started.fill_(True)

    def restart(self, x_MD: Tensor) -> None:
        """Move codes that are hardly used to random vectors of the batch, averages included."""
        # by the CPU's generator, as everything random: the same picks on any device
        pick_K = torch.randint(len(x_MD), (len(self.codes_KD),))
        new_KD = x_MD[pick_K.to(x_MD.device, non_blocking=True)]
        if dist.is_initialized():
            dist.broadcast(new_KD, 0)
        dead_K1 = (self.counts_K < self.config.restart_below)[:, None]
        # one vector in the average: else the old sums would move the code straight back
        self.codes_KD.copy_(torch.where(dead_K1, new_KD, self.codes_KD))
        self.sums_KD.copy_(torch.where(dead_K1, new_KD, self.sums_KD))
        self.counts_K.copy_(torch.where(dead_K1[:, 0], 1, self.counts_K))

    @torch.no_grad()
    def update(self, found: ops.Nearest) -> None:
        """Move the averages towards this batch, over all ranks, and the codes to them."""
        counts_K, sums_KD = found.counts_K.to(self.counts_K.dtype), found.sums_KD
        if dist.is_initialized():
            dist.all_reduce(counts_K)
            dist.all_reduce(sums_KD)
        decay, K = self.config.ema_decay, len(counts_K)
        self.counts_K.lerp_(counts_K, 1 - decay)
        self.sums_KD.lerp_(sums_KD, 1 - decay)
        if isinstance(self.codes_KD, nn.Parameter):
            return
        total = self.counts_K.sum()
        smooth_K = (self.counts_K + SMOOTHING) / (total + K * SMOOTHING) * total
        self.codes_KD.copy_(self.sums_KD / smooth_K[:, None])


def linear(x_BND: Tensor, weight_OD: Tensor, bias_O: Tensor) -> Tensor:
    """W x + b as a pointwise convolution: encoder and decoder hold latents channels first."""
    x_BD1N, weight_OD11 = x_BND.mT.unsqueeze(2), weight_OD[:, :, None, None]
    out = ops.separable_conv(x_BD1N, None, None, weight_OD11, bias_O, kind="none")
    return out.y.squeeze(2).mT


def orthogonality(codes_KD: Tensor) -> Tensor:
    """Mean squared cosine between different codes: |ĈĈᵀ - I|² / K²."""
    unit_KD = F.normalize(codes_KD, dim=-1)
    identity_KK = torch.eye(len(unit_KD), dtype=unit_KD.dtype, device=unit_KD.device)
    return (unit_KD @ unit_KD.T - identity_KK).square().mean()


def kmeans(x_MD: Tensor, n_codes: int, space: str) -> tuple[Tensor, Tensor]:
    """Centres (K, D) and how many vectors each has (K,), by Lloyd's iterations.

    Starts from distinct vectors where there are enough. Distances never exist all at once.
    """
    order_M = torch.randperm(len(x_MD))
    first_K = order_M.repeat(-(-n_codes // len(x_MD)))[:n_codes]
    codes_KD = x_MD[first_K.to(x_MD.device, non_blocking=True)]
    counts_K = x_MD.new_zeros(n_codes)
    for _ in range(KMEANS_ITERATIONS):
        found = ops.nearest_code(x_MD, codes_KD, stats=True)
        counts_K = found.counts_K.to(x_MD.dtype)
        means_KD = found.sums_KD / counts_K.clamp_min(1)[:, None]
        codes_KD = torch.where(counts_K[:, None] > 0, means_KD, codes_KD)
        if space == "cosine":
            codes_KD = F.normalize(codes_KD, dim=-1)
    return codes_KD, counts_K


def perplexity(counts_K: Tensor) -> float:
    """exp of the entropy of code use: how many codes are in use, evenly counted."""
    p_K = counts_K.double() / counts_K.sum().clamp_min(1)
    return float(torch.special.entr(p_K).sum().exp())
