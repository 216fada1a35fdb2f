"""The nn.Modules that tokenizer and prior are made of; the transformer's are in `transformer`."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsgen import dispatch, ops


class Snake(nn.Module):
    """x + sin²(ax)/a with one learned frequency a channel, after an optional BatchNorm.

    The normalisation is a gain and a shift, which the activation's own pass applies.
    """

    def __init__(self, n_channels: int, *, normalised: bool = False) -> None:
        super().__init__()
        self.a_C = nn.Parameter(torch.empty(n_channels))
        nn.init.uniform_(self.a_C, 0.2, 0.5)
        self.norm = nn.BatchNorm2d(n_channels) if normalised else None

    def forward(self, x: ops.Convolved) -> Tensor:
        """Normalised, by x's own statistics in training, and activated."""
        return ops.snake(x.y, self.a_C, *self.affine(x))

    def affine(self, x: ops.Convolved) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """gain and shift of the normalisation; in training its moving averages take x in."""
        if self.norm is None:
            return None, None
        if not self.training:
            return folded(self.norm)
        update(self.norm, x.mean_O, x.var_O, x.y.numel() // x.y.shape[1])
        return gain_and_shift(self.norm, x.mean_O, x.var_O)


@torch.no_grad()
def update(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean_C: Tensor, var_C: Tensor, n: int) -> None:
    """Take the mean and the biased variance of n numbers a channel into the moving averages."""
    rate = cast(float, norm.momentum)
    cast(Tensor, norm.running_mean).lerp_(mean_C, rate)
    cast(Tensor, norm.running_var).lerp_(var_C * (n / max(1, n - 1)), rate)
    cast(Tensor, norm.num_batches_tracked).add_(1)


def gain_and_shift(
    norm: nn.BatchNorm1d | nn.BatchNorm2d, mean_C: Tensor, var_C: Tensor
) -> tuple[Tensor, Tensor]:
    """What a batch normalisation with this mean and variance does."""
    gain_C = norm.weight * (var_C + norm.eps).rsqrt()
    return gain_C, norm.bias - mean_C * gain_C


class Folded(nn.Module):
    """A BatchNorm whose gain and shift are computed once, see `fold_norms`."""

    gain_C: Tensor
    shift_C: Tensor

    def __init__(self, gain_C: Tensor, shift_C: Tensor) -> None:
        super().__init__()
        self.register_buffer("gain_C", gain_C)
        self.register_buffer("shift_C", shift_C)


def fold_norms(module: nn.Module) -> None:
    """Put a Folded in the place of every BatchNorm in a module that is not trained any more."""
    for part in module.modules():
        for name, child in part.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(part, name, Folded(*folded(child)))


def folded(norm: nn.BatchNorm1d | nn.BatchNorm2d | Folded) -> tuple[Tensor, Tensor]:
    """gain and shift that BatchNorm amounts to once its statistics are fixed."""
    if isinstance(norm, Folded):
        return norm.gain_C, norm.shift_C
    return gain_and_shift(norm, cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var))


def dropped(x: Tensor, p: float, training: bool, residual: Tensor | None = None) -> Tensor:
    """`residual` plus dropout of x in training, or plus x; seeded by torch's CPU generator."""
    if training and p:
        seed = torch.randint(2**63 - 1, (1,)).to(x.device, non_blocking=True)
        return ops.dropout(x, p, seed, residual)
    return x if residual is None else residual + x


def kernel(n_rows: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Kernel size and padding: over time only where a band has one row, else over rows too."""
    return ((1, width), (0, 1)) if n_rows == 1 else ((3, width), (1, 1))


def separable(
    x_BCHW: Tensor, depthwise: nn.Module | None, pointwise: nn.Conv2d, kind: str, **how: Any
) -> ops.Convolved:
    """Two convolutions as one, see `ops.separable_conv`."""
    taps = (None, None) if depthwise is None else (depthwise.weight, depthwise.bias)
    weights = (*taps, pointwise.weight, pointwise.bias)
    return ops.separable_conv(x_BCHW, *cast(Any, weights), kind=kind, **how)


class ResBlock(nn.Module):
    """Two depthwise-separable convolutions and a skip."""

    def __init__(self, n_in: int, n_out: int, n_rows: int, dropout: float) -> None:
        super().__init__()
        size, pad = kernel(n_rows, 3)
        self.snake_in = Snake(n_in)
        self.depthwise_in = nn.Conv2d(n_in, n_in, size, padding=pad, groups=n_in)
        self.pointwise_in = nn.Conv2d(n_in, n_out, 1)
        self.snake_out = Snake(n_out, normalised=True)
        self.depthwise_out = nn.Conv2d(n_out, n_out, size, padding=pad, groups=n_out)
        self.pointwise_out = nn.Conv2d(n_out, n_out, 1)
        self.dropout = dropout
        self.skip = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        a_in, a_out = self.snake_in.a_C, self.snake_out.a_C
        h = separable(
            x_BCHW, self.depthwise_in, self.pointwise_in, "same", a_C=a_in, stats=self.training
        )
        gain, shift = self.snake_out.affine(h)
        how = {"a_C": a_out, "gain_C": gain, "shift_C": shift}
        h = separable(h.y, self.depthwise_out, self.pointwise_out, "same", **how)
        if isinstance(self.skip, nn.Conv2d):
            x_BCHW = separable(x_BCHW, None, self.skip, "none").y
        return dropped(h.y, self.dropout, self.training, residual=x_BCHW)


class DownBlock(nn.Module):
    """Halves time."""

    def __init__(self, n_in: int, n_out: int, n_rows: int) -> None:
        super().__init__()
        size, pad = kernel(n_rows, 4)
        self.depthwise = nn.Conv2d(
            n_in, n_in, size, stride=(1, 2), padding=pad, padding_mode="replicate", groups=n_in
        )
        self.pointwise = nn.Conv2d(n_in, n_out, 1)
        self.snake = Snake(n_out, normalised=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h = separable(x_BCHW, self.depthwise, self.pointwise, "halve", stats=self.training)
        return cast(Tensor, self.snake(h))


class UpConv(nn.Module):
    """Doubles time, linearly."""

    def __init__(self, n_in: int, n_out: int, n_rows: int, *, depthwise: bool = True) -> None:
        super().__init__()
        size, pad = kernel(n_rows, 4)
        self.depthwise = depthwise
        groups = n_in if depthwise else 1
        self.spread = nn.ConvTranspose2d(n_in, n_in, size, (1, 2), pad, groups=groups)
        self.pointwise = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.convolved(x_BCHW, stats=False).y

    def convolved(self, x_BCHW: Tensor, *, stats: bool) -> ops.Convolved:
        """The same, with the statistics of it if wanted."""
        if self.depthwise:
            return separable(x_BCHW, self.spread, self.pointwise, "twice", stats=stats)
        plain = not dispatch.by_gpu_kernel("separable_conv", x_BCHW)
        spread = self.spread(x_BCHW) if plain else self.gathered(x_BCHW)
        return separable(spread, None, self.pointwise, "none", stats=stats)

    def gathered(self, x_BCHW: Tensor) -> Tensor:
        """`spread` as products at every place, added up where they belong."""
        weight, (rows, columns) = self.spread.weight, self.spread.kernel_size
        products_PC11 = weight.permute(1, 2, 3, 0).flatten(0, 2)[:, :, None, None]
        none_P = weight.new_zeros(len(products_PC11))
        h = ops.separable_conv(x_BCHW, None, None, products_PC11, none_P, kind="none").y
        size = x_BCHW.shape[2], 2 * x_BCHW.shape[3]
        out = F.fold(h.flatten(2), size, (rows, columns), padding=(rows // 2, 1), stride=(1, 2))
        return out + cast(Tensor, self.spread.bias)[:, None, None]


class UpBlock(nn.Module):
    """Doubles time."""

    def __init__(self, n_in: int, n_out: int, n_rows: int) -> None:
        super().__init__()
        self.conv = UpConv(n_in, n_out, n_rows)
        self.snake = Snake(n_out, normalised=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return cast(Tensor, self.snake(self.conv.convolved(x_BCHW, stats=self.training)))


class TokenTable(nn.Module):
    """A vector for every token id.

    "free": each is learned by itself. "codes": a small network of the code that the token stands
    for, so that tokens of neighbouring codes are alike before any of them has been seen often.
    """

    codes_KD: Tensor

    def __init__(
        self, n_codes: int, code_dim: int, width: int, kind: str, *, mask: bool, std: float = 1.0
    ) -> None:
        super().__init__()
        n_free = n_codes + mask if kind == "free" else int(mask)
        self.free = nn.Parameter(torch.empty(n_free, width))
        nn.init.normal_(self.free, std=std)
        self.register_buffer("codes_KD", torch.zeros(0 if kind == "free" else n_codes, code_dim))
        self.net = None
        if kind == "codes":
            layers: list[nn.Module] = []
            for n_in in (code_dim, width):
                layers += [nn.Linear(n_in, width), nn.GELU()]
            self.net = nn.Sequential(*layers, nn.Linear(width, width))

    def forward(self) -> Tensor:
        """(K, width), or (K + 1, width) with [MASK] last."""
        return self.free if self.net is None else torch.cat([self.net(self.codes_KD), self.free])

    def see(self, codes_KD: Tensor) -> None:
        """Take the codes of a trained tokenizer, brought to unit variance."""
        if self.net is not None:
            correction = min(1, len(codes_KD) - 1)  # a single code has no variance
            std_D, mean_D = torch.std_mean(codes_KD.detach(), dim=0, correction=correction)
            self.codes_KD.copy_((codes_KD.detach() - mean_D) / std_D.clamp_min(1e-6))
