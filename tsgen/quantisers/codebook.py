"""The vector quantiser: each latent to its nearest code, and how the codes learn.

Moving averages: van den Oord et al. 2017, appendix A.1. k-means start and dead-code restart:
Dhariwal et al. 2020 (Jukebox). Cosine codes and the projection to few dims: Yu et al. 2022
(ViT-VQGAN). Orthogonal regularisation: Shin et al. 2021, eq. 2.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from tsgen import ops
from tsgen.config import TokenizerConfig
from tsgen.quantisers.gradient import GRADIENTS
from tsgen.quantisers.quantiser import Quantised, Quantiser

KMEANS_ITERATIONS = 10
SMOOTHING = 1e-5  # of the average counts, so that no sum is divided by 0


class Codebook(Quantiser):
    """Codes that follow moving averages of the vectors they stand for.

    They are buffers; with `orthogonal` above 0 a Parameter that follows its gradient.
    """

    counts_K: Tensor
    sums_KD: Tensor

    def __init__(self, config: TokenizerConfig, n_codes: int) -> None:
        super().__init__(config)
        codes_KD = torch.empty(n_codes, config.code_dim)
        nn.init.normal_(codes_KD)
        if config.orthogonal > 0:
            self.codes_KD = nn.Parameter(codes_KD)
        else:
            self.register_buffer("codes_KD", codes_KD)
        self.register_buffer("counts_K", torch.zeros(n_codes))  # moving averages
        self.register_buffer("sums_KD", torch.zeros(n_codes, config.code_dim))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, z_BND: Tensor, *, unit: bool = False) -> Quantised:
        """Replace every latent by its nearest code, with a gradient; learn when training.

        z_BND:    (B, N, hidden_dim) float32
        unit:     whether to bring every latent to length 1 first
        returns:  Quantised. The codes of before this batch are used, then updated
        """
        x_MD = self.down(z_BND, unit)
        if self.training:
            self.prepare(x_MD.detach())
        codes_KD = self.codes()
        found = self.search(x_MD.detach(), codes_KD.detach(), stats=self.training)
        chosen_QMD = self.chosen(found.ids_N, codes_KD)
        loss = self.loss(x_MD, chosen_QMD) if self.training else x_MD.new_zeros(())
        q_MD = GRADIENTS[self.config.gradient](x_MD, chosen_QMD[-1].detach())
        if self.training:
            self.update(found)
        B, N, _ = z_BND.shape
        z_BND, ids_BN = self.up(q_MD.view(B, N, -1)), by_depth(found.ids_N, B, N)
        return Quantised(z_BND, ids_BN, loss, found.counts_K)

    def search(self, x_MD: Tensor, codes_KD: Tensor, *, stats: bool) -> ops.Nearest:
        """The nearest code of every vector (M, D): ids (1, M), counts and sums."""
        found = ops.nearest_code(x_MD, codes_KD, stats=stats)
        return found._replace(ids_N=found.ids_N[None])

    def chosen(self, ids_QM: Tensor, codes_KD: Tensor) -> Tensor:
        """The codes of ids: (1, M, D)."""
        return F.embedding(ids_QM, codes_KD)

    def down(self, z_BND: Tensor, unit: bool = False) -> Tensor:
        """Latents in the codes' own space: (B * N, code_dim), of length 1 if cosine."""
        x_MD = super().down(z_BND, unit)
        return F.normalize(x_MD, dim=-1) if self.config.codebook == "cosine" else x_MD

    def codes(self) -> Tensor:
        """The codes as they are compared and decoded: (K, code_dim), of length 1 if cosine."""
        cosine = self.config.codebook == "cosine"
        return F.normalize(self.codes_KD, dim=-1) if cosine else self.codes_KD

    def loss(self, x_MD: Tensor, chosen_QMD: Tensor) -> Tensor:
        """Commitment; with codes that learn by gradient also their own pull and orthogonality."""
        x_QMD = x_MD.expand_as(chosen_QMD)
        loss = self.config.commitment * F.mse_loss(x_QMD, chosen_QMD.detach())
        if not isinstance(self.codes_KD, nn.Parameter):
            return loss
        pull = F.mse_loss(chosen_QMD, x_QMD.detach())
        return loss + pull + self.config.orthogonal * orthogonality(self.codes_KD)

    @torch.no_grad()
    def prepare(self, x_MD: Tensor) -> None:
        """Before a training batch: the k-means start, and new places for codes without use."""
        if not self.has_started():
            self.start(x_MD)
        elif self.config.restart_below > 0:
            self.restart(x_MD)

    def start(self, x_MD: Tensor) -> None:
        """Set the codes by k-means on vectors of their space (M, code_dim)."""
        codes_KD, counts_K = self.first_codes(x_MD)
        if dist.is_initialized():
            dist.broadcast(codes_KD, 0)
            dist.broadcast(counts_K, 0)
        self.codes_KD.copy_(codes_KD)
        self.counts_K.copy_(counts_K)
        self.sums_KD.copy_(codes_KD * counts_K[:, None])
        self.started.fill_(True)

    def first_codes(self, x_MD: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (K, D) for vectors (M, D), and how many of them each stands for (K,)."""
        return kmeans(x_MD, len(self.codes_KD), self.config.codebook)

    def restart(self, x_MD: Tensor) -> None:
        """Move codes that are hardly used to random vectors of the batch, averages included."""
        new_KD = self.some(x_MD, len(self.codes_KD))
        if dist.is_initialized():
            dist.broadcast(new_KD, 0)
        dead_K1 = (self.counts_K < self.config.restart_below)[:, None]
        # one vector in the average: else the old sums would move the code straight back
        self.codes_KD.copy_(torch.where(dead_K1, new_KD, self.codes_KD))
        self.sums_KD.copy_(torch.where(dead_K1, new_KD, self.sums_KD))
        self.counts_K.copy_(torch.where(dead_K1[:, 0], 1, self.counts_K))

    def some(self, x_MD: Tensor, n: int) -> Tensor:
        """n random vectors of a batch (M, D)."""
        # by the CPU's generator, as everything random: the same picks on any device
        pick_K = torch.randint(len(x_MD), (n,))
        return x_MD[pick_K.to(x_MD.device, non_blocking=True)]

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
        codes_KD = self.sums_KD / smooth_K[:, None]
        if self.config.codebook == "cosine":  # at 0 a code would be nearest to all that is far
            used_K1 = (self.counts_K > SMOOTHING)[:, None]
            codes_KD = torch.where(used_K1, codes_KD, self.codes_KD)
        self.codes_KD.copy_(codes_KD)


def by_depth(ids_QM: Tensor, B: int, N: int) -> Tensor:
    """Ids (Q, B N) in the order of tokens: (B, Q N), depth by depth."""
    return ids_QM.view(len(ids_QM), B, N).transpose(0, 1).flatten(1)


def orthogonality(codes_KD: Tensor) -> Tensor:
    """Mean squared cosine between different codes: |ĈĈᵀ - I|² / K²."""
    unit_KD = F.normalize(codes_KD, dim=-1)
    identity_KK = torch.eye(len(unit_KD), dtype=unit_KD.dtype, device=unit_KD.device)
    with torch.autocast(codes_KD.device.type, enabled=False):  # a loss, so in float32
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
