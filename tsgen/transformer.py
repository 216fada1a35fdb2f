"""The layers of the prior's transformer: pre-norm attention and feed-forward."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsgen import ops
from tsgen.config import PriorConfig


class Attention(nn.Module):
    """Pre-norm attention with normalised queries and keys, a null key, and a norm at the end."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.n_heads, inner = config.n_heads, config.n_heads * config.head_dim
        self.norm_in = nn.LayerNorm(config.hidden_dim)
        self.qkv = nn.Linear(config.hidden_dim, 3 * inner, bias=False)
        self.null_kv = nn.Parameter(torch.empty(2, config.n_heads, config.head_dim))
        nn.init.normal_(self.null_kv)
        # of length 1 and divided by sqrt(head_dim), queries could hardly tell one key from another
        scale = math.sqrt(config.sharpness * math.sqrt(config.head_dim))
        self.q_scale = nn.Parameter(torch.full((config.head_dim,), scale))
        self.k_scale = nn.Parameter(torch.full((config.head_dim,), scale))
        self.out = nn.Linear(inner, config.hidden_dim, bias=False)
        self.norm_out = nn.LayerNorm(config.hidden_dim)

    def forward(self, x_BND: Tensor, wanted: Tensor | None = None) -> Tensor:
        """What to add to x: for every token, or for those that `take` takes only."""
        x_BND = self.norm_in(x_BND)
        same_count = wanted is not None and wanted.dim() == 2  # in every sequence
        if same_count:
            inner = self.qkv.weight.shape[0] // 3
            q = self.heads(F.linear(take(x_BND, wanted), self.qkv.weight[:inner]), 1)[0]
            k, v = self.heads(F.linear(x_BND, self.qkv.weight[inner:]), 2)
        else:
            q, k, v = self.heads(F.linear(x_BND, self.qkv.weight), 3)
        out = ops.attention(q, k, v, self.null_kv, self.q_scale, self.k_scale)
        mixed = out.transpose(1, 2).flatten(2)
        return cast(Tensor, self.norm_out(self.out(mixed if same_count else take(mixed, wanted))))

    def heads(self, x_BND: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts * H * D) to `parts` views of (B, H, N, D)."""
        B, N, _ = x_BND.shape
        # unbound before transposed: the gradients are put together where they belong, in one copy
        parts_BNHD = x_BND.view(B, N, parts, self.n_heads, -1).unbind(2)
        return tuple(part.transpose(1, 2) for part in parts_BNHD)


class FeedForward(nn.Module):
    """Linear, GELU, norm, linear; pre-norm (Shleifer et al. 2021, NormFormer)."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(config.hidden_dim)
        self.up = nn.Linear(config.hidden_dim, config.ff_dim, bias=False)
        self.norm_mid = nn.LayerNorm(config.ff_dim)
        self.down = nn.Linear(config.ff_dim, config.hidden_dim, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        h = F.gelu(self.up(self.norm_in(x_BND)))
        return cast(Tensor, self.down(self.norm_mid(h)))


class Block(nn.Module):
    """One transformer layer."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x_BND: Tensor, wanted: Tensor | None = None) -> Tensor:
        """All tokens; or, in the last layer, only those that `take` takes."""
        x = self.attention(x_BND, wanted) + take(x_BND, wanted)
        return cast(Tensor, x + self.feed_forward(x))


def take(x_BND: Tensor, wanted: Tensor | None) -> Tensor:
    """All, or x[b, wanted[b, m]] as (B, M, D), or rows (R, D) of x in one row of sequences."""
    if wanted is None:
        return x_BND
    if wanted.dim() == 1:
        return x_BND.flatten(0, 1).index_select(0, wanted)
    return x_BND.gather(1, wanted[:, :, None].expand(-1, -1, x_BND.shape[2]))
