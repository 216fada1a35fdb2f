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
from tsgen.context import Context
from tsgen.layers import TokenTable, dropped
from tsgen.transformer import Block


class Folded(NamedTuple):
    """What does not change between decoding steps, in the transformer's own width D."""

    tokens_KD: Tensor  # (K + 1, D), of token ids
    head_KD: Tensor  # (K, D), of the head's last layer
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
        code_dim, tables = config.tokenizer.code_dim, prior.tables
        self.embed = TokenTable(self.n_codes, code_dim, E, tables, mask=True)
        self.places = nn.Embedding(self.n_tokens, width)
        self.classes = nn.Embedding(config.n_classes + 1, width)
        self.project_in = nn.Linear(width, prior.hidden_dim)
        self.blocks = nn.ModuleList([Block(prior) for _ in range(prior.n_layers)])
        self.head_in = nn.Linear(prior.hidden_dim, prior.hidden_dim)
        self.head_norm = nn.LayerNorm(prior.hidden_dim, eps=1e-12)
        D = prior.hidden_dim
        self.head = TokenTable(self.n_codes, code_dim, D, tables, mask=False, std=D**-0.5)
        self.head_bias = nn.Parameter(torch.zeros(self.n_codes))

    def forward(self, ids_BN: Tensor, class_B: Tensor, low_BM: Tensor | None = None) -> Tensor:
        """Logits (B, N, K) of every position.

        ids_BN:   (B, N) int64 token ids, K where masked
        class_B:  (B,) int64 class ids, n_classes for none
        low_BM:   (B, M) int64 tokens of the low band; for the high band only
        """
        return F.linear(self.hidden(ids_BN, class_B, low_BM), self.head(), self.head_bias)

    def hidden(self, ids_BN: Tensor, class_B: Tensor, low_BM: Tensor | None = None) -> Tensor:
        """What the head's last layer gets, for every position: (B, N, D)."""
        return self.transform(self.inputs(ids_BN, class_B, low_BM))

    def inputs(self, ids_BN: Tensor, class_B: Tensor, low_BM: Tensor | None = None) -> Tensor:
        """What the blocks get: (B, 1 + N, D), the class first."""
        embed_KE, weight_DE = self.embed(), self.project_in.weight
        weight_DE = weight_DE[:, -embed_KE.shape[1] :]
        if self.training and self.dropout:
            kept_BNE = dropped(F.embedding(ids_BN, embed_KE), self.dropout, True)
            tokens_BND, mask_D = F.linear(kept_BNE, weight_DE), F.linear(embed_KE[-1], weight_DE)
            tokens_BND = torch.where((ids_BN == self.n_codes)[:, :, None], mask_D, tokens_BND)
        else:
            tokens_BND = F.embedding(ids_BN, F.linear(embed_KE, weight_DE))
        context_BND = None if low_BM is None else self.fold_context(low_BM)
        return added_up(tokens_BND, *self.fold_places(), class_B, context_BND)

    def transform(
        self, x_BTD: Tensor, positions_BM: Tensor | None = None, rows_R: Tensor | None = None
    ) -> Tensor:
        """Blocks and head but its last layer, for all positions or those asked for.

        x_BTD:         (B, 1 + N, D), the class first
        positions_BM:  (B, M) int64 in [0, N); the last layer computes only these
        rows_R:        (R,) int64 in [0, B N), instead: of all positions, distinct
        returns:       (B, N, D), (B, M, D), or (R, D)
        """
        *early, last = self.blocks
        for block in early:
            x_BTD = block(x_BTD)
        if positions_BM is not None:
            x = last(x_BTD, positions_BM + 1)
        elif rows_R is not None:
            x = last(x_BTD, rows_R + rows_R // (x_BTD.shape[1] - 1) + 1)  # past the classes
        else:
            x = last(x_BTD)[:, 1:]
        return cast(Tensor, self.head_norm(F.gelu(self.head_in(x))))

    def see(self, codes: list[Tensor]) -> None:
        """Take the codes (K, code_dim) of each band of a trained tokenizer."""
        own = codes[1 if self.context is not None else 0]
        self.embed.see(own)
        self.head.see(own)
        if self.context is not None:
            self.context.embed.see(codes[0])

    def fold(self) -> Folded:
        """Embeddings taken through the input projection once: it is linear."""
        embed_KE, weight_DE = self.embed(), self.project_in.weight
        tokens_KD = F.linear(embed_KE, weight_DE[:, -embed_KE.shape[1] :])
        return Folded(tokens_KD, self.head(), *self.fold_places())

    def fold_places(self) -> tuple[Tensor, Tensor]:
        """Positions and classes likewise, both with the bias."""
        return self.project_in(self.places.weight), self.project_in(self.classes.weight)

    def fold_context(self, low_BM: Tensor) -> Tensor:
        """The low band's share of the input, in width D: (B, N, D)."""
        assert self.context is not None
        E = self.embed.free.shape[1]
        return cast(Tensor, self.context(low_BM, self.project_in.weight[:, :-E]))

    def assemble(
        self, folded: Folded, ids_BN: Tensor, class_B: Tensor, context_BND: Tensor | None
    ) -> Tensor:
        """The blocks' input (B, 1 + N, D) from folded parts: the same as `hidden` computes."""
        tokens_BND = F.embedding(ids_BN, folded.tokens_KD)
        return added_up(tokens_BND, folded.places_ND, folded.classes_CD, class_B, context_BND)

    def loss(
        self,
        ids_BN: Tensor,
        masked_BN: Tensor,
        class_B: Tensor,
        low_BM: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy in nats over the masked positions; logits exist for those only.

        ids_BN, class_B, low_BM as in `forward`, all ids known; masked_BN: (B, N) bool
        """
        return self.loss_at(ids_BN, masked_BN.flatten().nonzero()[:, 0], class_B, low_BM)

    def loss_at(
        self, ids_BN: Tensor, rows_R: Tensor, class_B: Tensor, low_BM: Tensor | None = None
    ) -> Tensor:
        """The same, masked at rows_R (R,) int64 of all B * N positions, ascending.

        Their number is known without a look at the device, and torch.compile takes it as dynamic.
        """
        ids = ids_BN.flatten()
        seen_BN = ids.index_fill(0, rows_R, self.n_codes).view_as(ids_BN)
        h_RD = self.transform(self.inputs(seen_BN, class_B, low_BM), rows_R=rows_R)
        every_R = torch.arange(len(h_RD), device=h_RD.device)
        return ops.masked_cross_entropy(
            h_RD, self.head(), self.head_bias, every_R, ids.index_select(0, rows_R)
        )


def added_up(
    tokens_BND: Tensor,
    places_ND: Tensor,
    classes_CD: Tensor,
    class_B: Tensor,
    context_BND: Tensor | None,
) -> Tensor:
    """(B, 1 + N, D): the class, then what stands at every place."""
    x_BND = tokens_BND + places_ND
    if context_BND is not None:
        x_BND = x_BND + context_BND
    return torch.cat([F.embedding(class_B, classes_CD)[:, None], x_BND], 1)


def training_masks(n_masked_B: Tensor, n_tokens: int) -> Tensor:
    """(B, N) bool with n_masked_B random positions of each row set, by torch's CPU generator."""
    rank_BN = torch.rand(len(n_masked_B), n_tokens).argsort(1).argsort(1)
    return rank_BN.to(n_masked_B.device, non_blocking=True) < n_masked_B[:, None]


def draw_n_masked(n_rows: int, n_tokens: int, polarity: str, device: torch.device) -> Tensor:
    """How many positions to mask in each row: (B,) int64, cosine-distributed, at least 1.

    polarity "mask" masks cos(πr/2) of them for uniform r, 64 % on average (MaskGIT); "keep"
    keeps as many and masks 36 % (timevqvae 1.0.1). By torch's CPU generator, then moved.
    """
    places_B = torch.cos(torch.rand(n_rows, dtype=torch.float64) * torch.pi / 2) * n_tokens
    if polarity == "mask":
        n_masked_B = places_B.ceil().long().clamp(1, n_tokens)
    else:
        n_masked_B = n_tokens - places_B.floor().long().clamp(0, n_tokens - 1)
    return n_masked_B.to(device, non_blocking=True)


def masked_positions(masked_BN: Tensor, count: int) -> Tensor:
    """The `count` masked positions of every row, ascending: (B, count) int64."""
    return masked_BN.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
