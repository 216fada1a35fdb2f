"""What self-supervision puts on the encoder while it is trained, and takes off afterwards.

B series, N tokens, D width, F features, E embedding width.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tsgen.quantisers import Quantiser

WHITENING_STEPS = 5  # T of Huang et al. 2019, who find more of no use
WHITENING_GROUP = 64  # features whitened together
TINY = 1e-12  # of a squared length


def pooled(tokens: list[Tensor]) -> Tensor:
    """Features (B, F) of a series: the mean over the tokens of each band, bands side by side.

    tokens:  (B, N, D) of each band
    """
    return torch.cat([z_BND.mean(1) for z_BND in tokens], 1)


def unit(latents: list[Tensor]) -> list[Tensor]:
    """Of length 1, as the codebook sees them; in float32 under autocast too."""
    out = []
    for z_BND in latents:
        z_BND = z_BND.float()
        # half the time of F.normalize, whose division goes back in three passes
        out.append(z_BND * (z_BND.square().sum(-1, keepdim=True) + TINY).rsqrt())
    return out


def before_codes(latents: list[Tensor], projections: Sequence[Quantiser]) -> list[Tensor]:
    """Tokens (B, N, D) of each band, not quantised: unit latents, or what a decoder would get.

    latents:      (B, N, D) of each band
    projections:  one of each band, to the codes' space and back; or none
    """
    if not projections:
        return unit(latents)
    pairs = zip(projections, latents, strict=True)
    return [q.up(q.down(z_BND, unit=True).view(*z_BND.shape[:2], -1)) for q, z_BND in pairs]


def mlp(*widths: int, norm_last: bool = False) -> nn.Sequential:
    """Linear layers, each but the last followed by batch norm and ReLU.

    The norms keep no averages: heads are never used but in training.
    widths:     of the input, of what lies between, of the output
    norm_last:  also a batch norm after the last one, without ReLU
    """
    layers: list[nn.Module] = []
    last = len(widths) - 2
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        normed = i < last or norm_last
        layers.append(nn.Linear(n_in, n_out, bias=not normed))
        layers += [nn.BatchNorm1d(n_out, track_running_stats=False)] if normed else []
        layers += [nn.ReLU()] if i < last else []
    return nn.Sequential(*layers)


def iter_norm(x_BE: Tensor) -> Tensor:
    """Features decorrelated over the batch: y = Σ^(-1/2) (x - mean), by Newton's iteration.

    Huang et al. 2019, "Iterative Normalization", algorithm 1: with S = Σ / tr Σ,
    P ← (3 P - P³ S) / 2 from P = I, and Σ^(-1/2) ≈ P / sqrt(tr Σ). In groups of 64 features.

    x_BE:     (B, E) float32 or float64; E is a multiple of the group, or below it
    """
    B, E = x_BE.shape
    x_GBD = (x_BE - x_BE.mean(0)).view(B, -1, min(E, WHITENING_GROUP)).transpose(0, 1)
    return (x_GBD @ whitening(x_GBD)).transpose(0, 1).reshape(B, E)


class IterNorm(nn.Module):
    """`iter_norm`, then a learned gain and shift of every feature, as a batch norm has them.

    Without them no standard deviation can reach 1, and few steps of Newton's leave it well below.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain_E = nn.Parameter(torch.ones(width))
        self.shift_E = nn.Parameter(torch.zeros(width))

    def forward(self, x_BE: Tensor) -> Tensor:
        """Of (B, E), in float32 under autocast too."""
        with in_full(x_BE):
            return iter_norm(in_float32(x_BE)) * self.gain_E + self.shift_E


def whitening(x_GBD: Tensor, steps: int = WHITENING_STEPS, eps: float = 1e-5) -> Tensor:
    """Σ^(-1/2) (G, D, D) of centred x (G, B, D)."""
    eye_DD = torch.eye(x_GBD.shape[2], dtype=x_GBD.dtype, device=x_GBD.device)
    sigma_GDD = x_GBD.mT @ x_GBD / x_GBD.shape[1] + eps * eye_DD
    trace_G11 = sigma_GDD.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    share_GDD = sigma_GDD / trace_G11
    p_GDD = eye_DD.expand_as(sigma_GDD)
    for _ in range(steps):
        p_GDD = 1.5 * p_GDD - 0.5 * (p_GDD @ p_GDD @ p_GDD @ share_GDD)
    return p_GDD * trace_G11.rsqrt()


def in_full(like: Tensor) -> torch.autocast:
    """Whatever is computed inside is so in the precision of its inputs."""
    return torch.autocast(like.device.type, enabled=False)


def in_float32(x: Tensor) -> Tensor:
    """Never less: statistics of a batch are small differences."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
