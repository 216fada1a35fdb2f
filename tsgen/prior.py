"""Stage 2: bidirectional transformers that predict masked tokens, one per band.

    h0 = W_in ([low-band context, token embedding] + position) + b,  the class first
    logits = head(blocks(h0))                                        at masked positions only

Chang et al. 2022 (MaskGIT); blocks as in timevqvae 1.0.1. Token id K of a band is its [MASK],
class id n_classes means no class.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsgen import ops
from tsgen.config import ModelConfig
from tsgen.layers import Block, folded, take


class Context(nn.Module):
    """What the high band sees of the low one: its tokens, brought to the high band's places.

    Aligned in "time" the convolutions run on the low band's few tokens, and a token of the high
    band gets what stands at its time. "flat", as timevqvae 1.0.1 has it, stretches the low tokens
    over the high ones, rows after rows, and then convolves: eight times the work, and a token of
    row r sees other times than its own.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        E = config.priors[1].embed_dim
        self.rows, self.width = config.tokenizer.grid(1)
        self.aligned = config.band_alignment == "time"
        self.embed = nn.Embedding(config.tokenizer.n_codes[0] + 1, E)
        self.conv_in = nn.Conv1d(E, 2 * E, 7, padding=3)
        self.norm = nn.BatchNorm1d(2 * E)
        self.conv_out = nn.Conv1d(2 * E, E, 7, padding=6, dilation=2)
        self.dropout = config.priors[1].dropout

    def forward(self, low_BM: Tensor) -> Tensor:
        """(B, N, E) for the N places of the high band, from all M tokens of the low one."""
        x_BEM = F.dropout(self.embed(low_BM), self.dropout, self.training).mT
        if self.aligned:
            x_BEW = F.interpolate(self.convolved(x_BEM), size=self.width, mode="nearest")
            # every row of the high band shares the low band's time
            return x_BEW.mT.repeat(1, self.rows, 1)
        x_BEN = F.interpolate(x_BEM, size=self.rows * self.width, mode="nearest")
        return self.convolved(x_BEN).mT

    def convolved(self, x_BEM: Tensor) -> Tensor:
        h = F.gelu(self.conv_in(x_BEM))
        if self.training:
            return cast(Tensor, self.conv_out(self.norm(h)))
        gain, shift = folded(self.norm)
        return cast(Tensor, self.conv_out(torch.addcmul(shift[:, None], h, gain[:, None])))


class Folded(NamedTuple):
    """What does not change between decoding steps, in the transformer's own width D."""

    tokens_KD: Tensor  # (K + 1, D), of token ids
    places_ND: Tensor  # (N, D), of positions, with the bias
    classes_CD: Tensor  # (n_classes + 1, D)


class Prior(nn.Module):
    """Bidirectional transformer over the tokens of one band."""

    def __init__(self, config: ModelConfig, band: int) -> None:
        super().__init__()
        prior, E = config.priors[band], config.priors[band].embed_dim
        self.n_classes, self.dropout = config.n_classes, prior.dropout
        self.n_codes = config.tokenizer.n_codes[band]
        self.n_tokens = config.tokenizer.n_tokens(band)
        self.context = Context(config) if band else None
        width = 2 * E if band else E
        self.embed = nn.Embedding(self.n_codes + 1, E)
        self.places = nn.Embedding(self.n_tokens, width)
        self.classes = nn.Embedding(config.n_classes + 1, width)
        self.project_in = nn.Linear(width, prior.hidden_dim)
        self.blocks = nn.ModuleList([Block(prior) for _ in range(prior.n_layers)])
        self.head_in = nn.Linear(prior.hidden_dim, prior.hidden_dim)
        self.head_norm = nn.LayerNorm(prior.hidden_dim, eps=1e-12)
        self.head = nn.Linear(prior.hidden_dim, self.n_codes)

    def forward(self, ids_BN: Tensor, class_B: Tensor, low_BM: Tensor | None = None) -> Tensor:
        """Logits (B, N, K) of every position.

        ids_BN:   (B, N) int64 token ids, K where masked
        class_B:  (B,) int64 class ids, n_classes for none
        low_BM:   (B, M) int64 tokens of the low band; for the high band only
        """
        return cast(Tensor, self.head(self.hidden(ids_BN, class_B, low_BM)))

    def hidden(self, ids_BN: Tensor, class_B: Tensor, low_BM: Tensor | None = None) -> Tensor:
        """What the head's last layer gets, for every position: (B, N, D)."""
        x_BNE = self.embed(ids_BN)
        if self.training:
            kept = F.dropout(x_BNE, self.dropout)
            x_BNE = torch.where((ids_BN == self.n_codes)[:, :, None], x_BNE, kept)
        if self.context is not None and low_BM is not None:
            x_BNE = torch.cat([self.context(low_BM), x_BNE], 2)
        x_BNE = x_BNE + self.places.weight
        x_BTE = torch.cat([self.classes(class_B)[:, None], x_BNE], 1)
        return self.transform(self.project_in(x_BTE))

    def transform(self, x_BTD: Tensor, positions_BM: Tensor | None = None) -> Tensor:
        """Blocks and head but its last layer, for all positions or those asked for.

        x_BTD:         (B, 1 + N, D), the class first
        positions_BM:  (B, M) int64 in [0, N); the last layer computes only these
        returns:       (B, N or M, D)
        """
        *early, last = self.blocks
        for block in early:
            x_BTD = block(x_BTD)
        x_BMD = last(x_BTD)[:, 1:] if positions_BM is None else last(x_BTD, positions_BM + 1)
        return cast(Tensor, self.head_norm(F.gelu(self.head_in(x_BMD))))

    def fold(self) -> Folded:
        """Embeddings taken through the input projection once: it is linear."""
        E = self.embed.weight.shape[1]
        weight_DE = self.project_in.weight
        return Folded(
            F.linear(self.embed.weight, weight_DE[:, -E:]),
            F.linear(self.places.weight, weight_DE, self.project_in.bias),
            F.linear(self.classes.weight, weight_DE, self.project_in.bias),
        )

    def fold_context(self, low_BM: Tensor) -> Tensor:
        """The low band's share of the input, in width D: (B, N, D)."""
        assert self.context is not None
        E = self.embed.weight.shape[1]
        return F.linear(self.context(low_BM), self.project_in.weight[:, :-E])

    def assemble(
        self, folded: Folded, ids_BN: Tensor, class_B: Tensor, context_BND: Tensor | None
    ) -> Tensor:
        """The blocks' input (B, 1 + N, D) from folded parts: the same as `hidden` computes."""
        x_BND = F.embedding(ids_BN, folded.tokens_KD) + folded.places_ND
        if context_BND is not None:
            x_BND = x_BND + context_BND
        return torch.cat([F.embedding(class_B, folded.classes_CD)[:, None], x_BND], 1)

    def loss(
        self,
        ids_BN: Tensor,
        masked_BN: Tensor,
        class_B: Tensor,
        low_BM: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy in nats over the masked positions; logits exist for those only."""
        h_BND = self.hidden(torch.where(masked_BN, self.n_codes, ids_BN), class_B, low_BM)
        rows_R = masked_BN.flatten().nonzero()[:, 0]
        return ops.masked_cross_entropy(
            h_BND.flatten(0, 1), self.head.weight, self.head.bias, rows_R, ids_BN.flatten()[rows_R]
        )


def training_masks(n_masked_B: Tensor, n_tokens: int) -> Tensor:
    """(B, N) bool with n_masked_B random positions of each row set; torch's own generator."""
    rank_BN = torch.rand(len(n_masked_B), n_tokens, device=n_masked_B.device).argsort(1).argsort(1)
    return rank_BN < n_masked_B[:, None]


def draw_n_masked(n_rows: int, n_tokens: int, polarity: str, device: torch.device) -> Tensor:
    """How many positions to mask in each row: (B,) int64, cosine-distributed, at least 1.

    polarity "mask" masks cos(πr/2) of them for uniform r, 64 % on average (MaskGIT); "keep"
    keeps as many and masks 36 % (timevqvae 1.0.1).
    """
    share_B = torch.cos(torch.rand(n_rows, device=device, dtype=torch.float64) * torch.pi / 2)
    if polarity == "mask":
        return (share_B * n_tokens).ceil().long().clamp(1, n_tokens)
    return n_tokens - (share_B * n_tokens).floor().long().clamp(0, n_tokens - 1)


def all_positions(masked_BN: Tensor, count: int) -> Tensor:
    """The `count` masked positions of every row, ascending: (B, count) int64."""
    return masked_BN.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]


__all__ = [
    "Context",
    "Folded",
    "Prior",
    "all_positions",
    "draw_n_masked",
    "take",
    "training_masks",
]
