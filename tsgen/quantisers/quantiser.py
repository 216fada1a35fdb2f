"""What every quantiser is: latents to few dims, to token ids, and back."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsgen import ops
from tsgen.config import TokenizerConfig


class Quantised(NamedTuple):
    """What a quantiser makes of a batch of latents at N places."""

    z_BND: Tensor  # (B, N, hidden_dim), what the decoder gets
    ids_BN: Tensor  # int64; (B, depth N) where a place has several codes, depth by depth
    loss: Tensor  # (), commitment and regularisation, weighted
    counts_K: Tensor  # int64, vectors per code in this batch; empty out of training


class Projections(nn.Module):
    """A linear map of latents down to code_dim numbers, and one back up."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.project_in = nn.Linear(config.hidden_dim, config.code_dim)
        self.project_out = nn.Linear(config.code_dim, config.hidden_dim)

    def down(self, z_BND: Tensor, unit: bool = False) -> Tensor:
        """Latents in few dims: (B * N, code_dim), in float32 under autocast too.

        unit: whether to bring every latent to length 1 first
        """
        layer = self.project_in
        with torch.autocast(z_BND.device.type, enabled=False):
            z_BND = z_BND.to(layer.weight.dtype)
            if unit:  # W (z / |z|) + b, without z / |z|, which is many times as large
                # in float64, rounded once, it is the same in whatever order it is summed; training
                # does not need that, and backward through it takes three times as long
                dtype = None if self.training else torch.float64
                length_BN1 = torch.linalg.vector_norm(z_BND, dim=-1, keepdim=True, dtype=dtype)
                x_BND = linear(z_BND, layer.weight, torch.zeros_like(layer.bias))
                x_BND = x_BND / length_BN1.clamp_min(1e-12).to(x_BND) + layer.bias
            else:
                x_BND = linear(z_BND, layer.weight, layer.bias)
            return x_BND.flatten(0, 1)

    def up(self, x_BND: Tensor) -> Tensor:
        """Few dims (B, N, code_dim) as the decoder gets them: (B, N, hidden_dim)."""
        return linear(x_BND, self.project_out.weight, self.project_out.bias)


class Quantiser(Projections):
    """Codes of few dims, between a projection down and one up.

    Subclasses say what the codes are and how they learn. The first batch of training may set them
    or the projection: `has_started` tells whether it has.
    """

    codes_KD: Tensor
    started: Tensor

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.seen_started = False

    def forward(self, z_BND: Tensor, *, unit: bool = False) -> Quantised:
        """Replace every latent by its code; learn when training.

        z_BND:    (B, N, hidden_dim) float32
        unit:     whether to bring every latent to length 1 first
        returns:  Quantised
        """
        raise NotImplementedError  # each quantiser has its own; there is no default

    def codes(self) -> Tensor:
        """The codes as they are compared and decoded: (K, code_dim)."""
        return self.codes_KD

    def encode(self, z_BND: Tensor, *, unit: bool = False) -> Tensor:
        """Token ids (B, N) of latents (B, N, hidden_dim). Changes nothing."""
        return ops.nearest_code(self.down(z_BND, unit), self.codes()).ids_N.view(z_BND.shape[:2])

    def decode(self, ids_BN: Tensor) -> Tensor:
        """Latents (B, N, hidden_dim) of token ids (B, N)."""
        # as a table: a product over places would sum in another order for another batch size
        return F.embedding(ids_BN, self.up(self.codes()[None])[0])

    def has_started(self) -> bool:
        """Whether the first batch has been. Once it has, a GPU is not asked, and waited for."""
        self.seen_started = self.seen_started or bool(self.started)
        return self.seen_started

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.seen_started = False


def linear(x_BND: Tensor, weight_OD: Tensor, bias_O: Tensor) -> Tensor:
    """W x + b as a pointwise convolution: encoder and decoder hold latents channels first."""
    x_BD1N, weight_OD11 = x_BND.mT.unsqueeze(2), weight_OD[:, :, None, None]
    out = ops.separable_conv(x_BD1N, None, None, weight_OD11, bias_O, kind="none")
    return out.y.squeeze(2).mT


def perplexity(counts_K: Tensor) -> float:
    """exp of the entropy of code use: how many codes are in use, evenly counted."""
    p_K = counts_K.double() / counts_K.sum().clamp_min(1)
    return float(torch.special.entr(p_K).sum().exp())
