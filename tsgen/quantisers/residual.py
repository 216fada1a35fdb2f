"""Residual quantisation: each place gets several codes, each the nearest to what is still missing.

    r_0 = x,   k_d = argmin_k |r_d - c_k|²,   r_{d+1} = r_d - c_{k_d},   q = Σ_d c_{k_d}

Lee et al. 2022 (RQ-VAE, arXiv 2203.01941), section 3.1, with their one codebook for all depths. The
tokens of a band are its places at depth 0, then at depth 1 and so on: to the prior, more rows. The
commitment to what is added up at each depth is the mean over depths; the paper has the sum.
M vectors, Q codes for each, K codes of D dims.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import ops
from tsgen.quantisers.codebook import Codebook, by_depth, kmeans


class Residual(Codebook):
    """A codebook whose codes add up."""

    def search(self, x_MD: Tensor, codes_KD: Tensor, *, stats: bool) -> ops.Nearest:
        """Ids (Q, M); counts and sums of all depths together."""
        found = []
        for _ in range(self.config.depth):
            found.append(ops.nearest_code(x_MD, codes_KD, stats=stats))
            x_MD = x_MD - F.embedding(found[-1].ids_N, codes_KD)
        ids, distances, counts, sums = (torch.stack(part) for part in zip(*found, strict=True))
        return ops.Nearest(ids, distances[-1], counts.sum(0), sums.sum(0))

    def chosen(self, ids_QM: Tensor, codes_KD: Tensor) -> Tensor:
        """What the codes down to each depth add up to: (Q, M, D)."""
        return torch.stack(list(itertools.accumulate(F.embedding(ids_QM, codes_KD))))

    def encode(self, z_BND: Tensor, *, unit: bool = False) -> Tensor:
        """Token ids (B, Q N) of latents (B, N, hidden_dim). Changes nothing."""
        found = self.search(self.down(z_BND, unit), self.codes(), stats=False)
        return by_depth(found.ids_N, *z_BND.shape[:2])

    def decode(self, ids_BN: Tensor) -> Tensor:
        """Latents (B, N, hidden_dim) of token ids (B, Q N)."""
        bias = self.project_out.bias
        # as a table: a product over places would sum in another order for another batch size
        table_KD = self.up(self.codes()[None])[0] - bias
        ids_BQN = ids_BN.unflatten(1, (self.config.depth, -1))
        return sum(F.embedding(ids_BQN, table_KD).unbind(1)) + bias

    def first_codes(self, x_MD: Tensor) -> tuple[Tensor, Tensor]:
        """By k-means, an equal share of the codes for what is left at each depth."""
        parts, (K, Q) = [], (len(self.codes_KD), self.config.depth)
        for depth in range(Q):
            parts.append(kmeans(x_MD, K // Q + (depth < K % Q), "euclidean"))
            codes_KD = parts[-1][0]
            x_MD = x_MD - F.embedding(ops.nearest_code(x_MD, codes_KD).ids_N, codes_KD)
        codes, counts = zip(*parts, strict=True)
        return torch.cat(codes), torch.cat(counts)

    def some(self, x_MD: Tensor, n: int) -> Tensor:
        """n random vectors of a batch (M, D), or what is left of them at a random depth."""
        x_MD, codes_KD, Q = super().some(x_MD, n), self.codes().detach(), self.config.depth
        ids_QM = self.search(x_MD, codes_KD, stats=False).ids_N
        left_QMD = x_MD - F.pad(self.chosen(ids_QM, codes_KD)[:-1], (0, 0, 0, 0, 1, 0))
        pick_M = torch.arange(n) + n * torch.randint(Q, (n,))
        return left_QMD.flatten(0, 1)[pick_M.to(x_MD.device, non_blocking=True)]
