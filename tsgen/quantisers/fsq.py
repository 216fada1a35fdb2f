"""Finite scalar quantisation: every number rounded to one of few levels, and no code learned.

    q_d = round(h_d tanh(x_d + s_d) - o_d) / ⌊L_d / 2⌋        h = (L - 1)(1 - ε) / 2

o is 1/2 where L is even, else 0; s = artanh(o / h) lets 0 stay 0. Mentzer et al. 2023 (arXiv
2309.15505), section 3.1 and appendix A.1, which has tan for artanh. The codes are all combinations
of levels, the first dim turning fastest. Rounding finds the nearest of them, so `nearest_code`
finds the same: of up to 64 levels, as a number may have, in float32 too, unless it is as good as a
tie.
"""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from tsgen import ops
from tsgen.config import TokenizerConfig
from tsgen.quantisers.gradient import straight_through
from tsgen.quantisers.quantiser import Quantised, Quantiser

EPSILON = 1e-3  # keeps the outermost levels within reach of the tanh
SMALLEST_STD = 1e-3  # of the first batch, that a dim is divided by


class FSQ(Quantiser):
    """A grid of codes. The first batch scales the projection so that it fills the grid."""

    levels_D: Tensor

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        codes_KD = torch.empty(math.prod(config.levels), len(config.levels))
        if not codes_KD.is_meta:  # there the first division takes seconds, and fills none
            codes_KD.copy_(grid(config.levels))
        self.register_buffer("codes_KD", codes_KD)  # also for readers of a saved model
        self.register_buffer("started", torch.tensor(False))
        levels_D = torch.tensor(config.levels, device="cpu")  # also where new weights are on meta
        self.register_buffer("levels_D", levels_D, persistent=False)

    def forward(self, z_BND: Tensor, *, unit: bool = False) -> Quantised:
        """Round every latent, straight-through. There is no loss: nothing has to be pulled."""
        if self.training and not self.has_started():
            self.start(super().down(z_BND, unit))
        x_MD = self.down(z_BND, unit)
        found = ops.nearest_code(x_MD.detach(), self.codes_KD, stats=self.training)
        q_MD = straight_through(x_MD, F.embedding(found.ids_N, self.codes_KD))
        shape = z_BND.shape[:2]
        z_BND = self.up(q_MD.view(*shape, -1))
        return Quantised(z_BND, found.ids_N.view(shape), x_MD.new_zeros(()), found.counts_K)

    def down(self, z_BND: Tensor, unit: bool = False) -> Tensor:
        """Latents within the grid: (B * N, code_dim), between -1 and 1."""
        x_MD = super().down(z_BND, unit)
        # out of training in float64, rounded once: the same as any other engine has it
        wide_MD = x_MD if self.training else x_MD.double()
        levels_D = self.levels_D.to(wide_MD.dtype)
        half_D = (levels_D - 1) * (1 - EPSILON) / 2
        offset_D = (levels_D + 1) % 2 / 2
        bound_MD = torch.tanh(wide_MD + torch.atanh(offset_D / half_D)) * half_D - offset_D
        return (bound_MD / (levels_D // 2)).to(x_MD.dtype)

    @torch.no_grad()
    def start(self, x_MD: Tensor) -> None:
        """Scale the projection: its numbers x (M, code_dim) get mean 0 and variance 1."""
        std_D, mean_D = torch.std_mean(x_MD, dim=0, correction=0)
        if dist.is_initialized():
            dist.broadcast(std_D, 0)
            dist.broadcast(mean_D, 0)
        std_D = std_D.clamp_min(SMALLEST_STD)
        self.project_in.weight.div_(std_D[:, None])
        self.project_in.bias.sub_(mean_D).div_(std_D)
        self.started.fill_(True)


def grid(levels: tuple[int, ...]) -> Tensor:
    """All codes (K, D): level l of L stands for (l - ⌊L / 2⌋) / ⌊L / 2⌋."""
    left_K, columns = torch.arange(math.prod(levels)), []
    for n in levels:
        columns.append((left_K % n - n // 2) / (n // 2))
        left_K = left_K // n
    return torch.stack(columns, 1)
