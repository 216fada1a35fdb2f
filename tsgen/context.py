"""What the prior of the high band sees of the low one.

E embed_dim, F = 2 E features of the first convolution, M places of the low band, N of the high one.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsgen import dispatch, ops
from tsgen.config import ModelConfig
from tsgen.layers import TokenTable, dropped, folded, gain_and_shift, update


class Context(nn.Module):
    """What the high band sees of the low one: its tokens, brought to the high band's places.

    Aligned in "time" two convolutions run over the low band's few tokens, and the last gives each
    place of the high band its own linear map of what stands at its time. "flat", as timevqvae 1.0.1
    has it, stretches the low tokens over the high ones, rows after rows, and then convolves: more
    work, and a token of row r sees other times than its own.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        tokenizer, E = config.tokenizer, config.priors[1].embed_dim
        rows, columns = tokenizer.grid(1)
        self.depth, self.n_low = tokenizer.depth, tokenizer.n_places(0)
        self.grid = self.depth * rows, columns  # of tokens: each depth is as good as more rows
        self.aligned = config.band_alignment == "time"
        # columns of the high band for each place of the low one
        self.finer = max(1, round(self.grid[1] / self.n_low)) if self.aligned else 1
        self.n_rows = self.grid[0] if self.aligned else 1  # that have maps of their own
        maps = self.n_rows * self.finer
        tables = config.priors[1].tables
        # no [MASK]: all low tokens are known by then
        self.embed = TokenTable(tokenizer.n_codes[0], tokenizer.code_dim, E, tables, mask=False)
        # two low tokens on each side; of stretched ones it takes more to see as far
        size, dilation = (3, 1) if self.aligned else (7, 2)
        self.conv_in = nn.Conv1d(E, 2 * E, size, padding="same")
        self.norm = nn.BatchNorm1d(2 * E)
        self.conv_out = nn.Conv1d(2 * E, maps * E, size, padding="same", dilation=dilation)
        self.dropout = config.priors[1].dropout

    def forward(self, low_BM: Tensor, weight_DE: Tensor) -> Tensor:
        """(B, N, D) for the N places of the high band, from all M tokens of the low one.

        weight_DE: the linear map that comes next
        """
        x_BME = dropped(F.embedding(low_BM, self.embed()), self.dropout, self.training)
        if self.depth > 1:  # what stands at a place is the sum of its tokens
            x_BME = x_BME.unflatten(1, (self.depth, -1)).sum(1)
        if self.aligned:
            return self.mapped(x_BME, weight_DE)
        return self.convolved(x_BME, self.grid[0] * self.grid[1], weight_DE).mT

    def mapped(self, x_BME: Tensor, weight_DE: Tensor) -> Tensor:
        """Both convolutions of the tokens, and for each of N places its own map of them: (B, N, D).

        Tokens are few and maps many: what can be done to tokens is not done to the maps' weights.
        R rows, P places within a token's time, X = M P.
        """
        (B, M, _), (rows, width) = x_BME.shape, self.grid
        h_BMF, gain_F, shift_F = self.first(x_BME, M)
        maps = self.convolution(h_BMF * gain_F + shift_F, self.conv_out.weight)
        maps_BMREP = (maps + cast(Tensor, self.conv_out.bias)).view(B, M, rows, -1, self.finer)
        x_BRXD = F.linear(maps_BMREP.permute(0, 2, 1, 4, 3).flatten(2, 3), weight_DE)
        # (low token, place within it) is time; a ratio that is not whole repeats some places, and
        # none more than twice: their gradients are sums of two, which have one order
        if x_BRXD.shape[2] != width:
            source_W = stretched(x_BRXD.shape[2], width).to(x_BME.device, non_blocking=True)
            x_BRXD = x_BRXD.index_select(2, source_W)
        return x_BRXD.flatten(1, 2)

    def convolution(self, h_BNF: Tensor, weight: Tensor) -> Tensor:
        """(B, N, maps) by weights (maps, F, taps), without a bias."""
        (dilation,), size = self.conv_out.dilation, weight.shape[2]
        if dispatch.by_gpu_kernel("sum_taps", h_BNF):
            return F.linear(around(h_BNF, size, dilation), weight.mT.flatten(1))
        # in two dims: there PyTorch's convolutions take channels as the innermost one
        maps = F.conv2d(h_BNF.mT[:, :, None], weight[:, :, None], None, 1, "same", dilation)
        return maps[:, :, 0].mT

    def first(self, x_BME: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """conv_in and GELU of the tokens stretched over `width` places: (B, width, 2E); and the
        norm's gain and shift.

        A token that stands at many places is multiplied by each tap once, and every place adds up
        the products that it sees.
        """
        taps_TFE = self.conv_in.weight.permute(2, 0, 1)
        products = F.linear(x_BME, taps_TFE.flatten(0, 1)).unflatten(2, taps_TFE.shape[:2])
        source_N = stretched(x_BME.shape[1], width).to(x_BME.device, non_blocking=True)
        h, mean_F, var_F = ops.sum_taps(products, source_N, cast(Tensor, self.conv_in.bias))
        if self.training:
            update(self.norm, mean_F, var_F, len(h) * width)
            return h, *gain_and_shift(self.norm, mean_F, var_F)
        return h, *folded(self.norm)

    def convolved(self, x_BME: Tensor, width: int, weight_DE: Tensor) -> Tensor:
        """Both convolutions of the tokens stretched over `width` places, the last one taken in one
        with the linear map: (B, D, width)."""
        h, gain_F, shift_F = self.first(x_BME, width)
        weight, bias = (t.flatten(0, 2) for t in self.projected(weight_DE))
        # The norm's gain goes into the weights. Its shift is the same for all of the batch, but a
        # tap that sees the zeros outside, which are not normalised, adds nothing.
        (dilation,), size = self.conv_out.dilation, weight.shape[2]
        inside = F.pad(weight.new_ones(width), (size // 2 * dilation,) * 2)
        shift = (shift_F @ weight) @ inside.unfold(0, width, dilation) + bias[:, None]
        return self.convolution(h, weight * gain_F[:, None]).mT + shift

    def projected(self, weight_DE: Tensor) -> tuple[Tensor, Tensor]:
        """conv_out and the linear map after it in one: (rows, D, finer, 2E, taps), and its bias."""
        weight, bias = self.conv_out.weight, cast(Tensor, self.conv_out.bias)
        maps = weight.view(self.n_rows, -1, self.finer, *weight.shape[1:])
        return (
            torch.einsum("de,refit->rdfit", weight_DE, maps),
            torch.einsum("de,ref->rdf", weight_DE, bias.view(self.n_rows, -1, self.finer)),
        )


def around(h_BNF: Tensor, size: int, dilation: int) -> Tensor:
    """What each place sees of its neighbours, zeros outside: (B, N, size F)."""
    N, reach = h_BNF.shape[1], size // 2 * dilation
    wide = F.pad(h_BNF, (0, 0, reach, reach))
    return torch.cat([wide[:, i * dilation :][:, :N] for i in range(size)], 2)


def stretched(n: int, width: int) -> Tensor:
    """Which of n columns each of `width` shows, as F.interpolate has it: (width,) int64."""
    columns = torch.arange(n, dtype=torch.float64)[None, None]
    return F.interpolate(columns, size=width, mode="nearest")[0, 0].long()
