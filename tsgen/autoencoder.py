"""Encoders and decoders, one a band of the spectrogram: what both families of models share.

    x -> stft -> rows of one band -> encoder -> latents ... latents -> decoder -> istft -> x̂

The bands' series add up. Lee et al. 2023 (TimeVQVAE, AISTATS), in the layers of timevqvae 1.0.1;
one band over all rows: NC-VQVAE (2024).
"""

import itertools
import math
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsgen import ops
from tsgen.config import TokenizerConfig
from tsgen.errors import bad_value
from tsgen.interpolate import Between, between, interpolate
from tsgen.layers import DownBlock, ResBlock, UpBlock, UpConv
from tsgen.quantisers import Projections

P = TypeVar("P", bound=Projections)


class Encoder(nn.Module):
    """Spectrogram planes (B, 2C, F, T) to latents (B, hidden_dim, H, W) of any length."""

    def __init__(self, config: TokenizerConfig, band: int) -> None:
        super().__init__()
        n_rows = config.grid(band)[0]
        widths = stage_widths(config, band)
        layers: list[nn.Module] = [DownBlock(2 * config.n_channels, widths[0], n_rows)]
        for n_in, n_out in itertools.pairwise(widths):
            layers.append(DownBlock(n_in, n_out, n_rows))
            layers += [
                ResBlock(n_out, n_out, n_rows, config.dropout) for _ in range(config.n_resblocks)
            ]
        layers.append(ResBlock(widths[-1], config.hidden_dim, n_rows, config.dropout))
        self.layers = nn.Sequential(*layers)

    def forward(self, planes_BGFT: Tensor) -> Tensor:
        return cast(Tensor, self.layers(planes_BGFT))


class Decoder(nn.Module):
    """Latents (B, hidden_dim, H, W) to planes (B, 2C, F, T'), two frames for each it needs."""

    def __init__(self, config: TokenizerConfig, band: int) -> None:
        super().__init__()
        n_rows, n_planes = config.grid(band)[0], 2 * config.n_channels
        widths = stage_widths(config, band)[::-1]
        layers: list[nn.Module] = [ResBlock(config.hidden_dim, widths[0], n_rows, config.dropout)]
        for n_in, n_out in itertools.pairwise(widths):
            layers += [
                ResBlock(n_in, n_in, n_rows, config.dropout) for _ in range(config.n_resblocks)
            ]
            layers.append(UpBlock(n_in, n_out, n_rows))
        layers.append(UpConv(widths[-1], n_planes, n_rows))
        layers.append(UpConv(n_planes, n_planes, n_rows, depthwise=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, z_BDHW: Tensor) -> Tensor:
        return cast(Tensor, self.layers(z_BDHW))


def stage_widths(config: TokenizerConfig, band: int) -> list[int]:
    """Channels after each halving of time."""
    n = config.n_halvings(band)
    return [min(config.init_dim * 2**i, max(config.max_dim, config.init_dim)) for i in range(n)]


class Band(nn.Module, Generic[P]):
    """Encoder and decoder of some rows of the spectrogram, and what latents pass between them."""

    def __init__(
        self, config: TokenizerConfig, band: int, make: Callable[[TokenizerConfig, int], P]
    ) -> None:
        super().__init__()
        self.config, self.rows, self.grid = config, config.rows(band), config.grid(band)
        self.encoder = Encoder(config, band)
        self.codebook = make(config, band)
        self.decoder = Decoder(config, band)
        n_frames = self.grid[1] << (config.n_halvings(band) + 1)  # of the decoder
        where = between((n_frames - 1) * config.hop, config.length)
        for name, t in where._asdict().items():
            exact = t.float() if t.is_floating_point() else t
            self.register_buffer(f"between_{name}", exact, persistent=False)

    def latents(self, x_BCL: Tensor, window_W: Tensor) -> Tensor:
        """(B, N, hidden_dim) of series (B, C, inner_length), rows first, then time.

        Of any length: a tokenizer brings them to 1.
        """
        planes = ops.stft(x_BCL, window_W, self.config.hop, self.rows)
        return cast(Tensor, self.encoder(planes).flatten(2).mT)

    def series(self, z_BND: Tensor, window_W: Tensor) -> Tensor:
        """(B, C, length) of latents (B, N, hidden_dim)."""
        z_BDHW = z_BND.mT.reshape(len(z_BND), -1, *self.grid)
        planes = self.decoder(z_BDHW).to(window_W.dtype)  # bfloat16 under autocast
        hop = self.config.hop
        fine = ops.istft(planes, window_W, hop, self.rows[0], (planes.shape[3] - 1) * hop)
        return interpolate(fine, *(getattr(self, f"between_{name}") for name in Between._fields))


class Autoencoder(nn.Module, Generic[P]):
    """The bands, and what each of them has to reconstruct."""

    window_W: Tensor

    def __init__(self, config: TokenizerConfig, make: Callable[[TokenizerConfig, int], P]) -> None:
        super().__init__()
        self.config = config
        self.bands = nn.ModuleList([Band(config, b, make) for b in range(config.bands)])
        self.register_buffer("window_W", stft_window(config), persistent=False)

    def each(self) -> list[Band[P]]:
        """The bands, low first."""
        return cast("list[Band[P]]", list(self.bands))

    def prepare(self, x_BCL: Tensor) -> Tensor:
        """The series that is transformed: a very short one is held at its end."""
        config = self.config
        if x_BCL.dim() != 3 or x_BCL.shape[1:] != (config.n_channels, config.length):
            wanted = f"(n, {config.n_channels}, {config.length})"
            raise bad_value("x", wanted, tuple(x_BCL.shape))
        return F.pad(x_BCL, (0, config.inner_length - config.length), mode="replicate")

    def targets(self, inner_BCL: Tensor) -> list[Tensor]:
        """What each band has to reconstruct; they add up to the series."""
        length = self.config.length
        x_BCL = inner_BCL[..., :length]
        if self.config.bands == 1:
            return [x_BCL]
        low = self.band_series(inner_BCL, 0)
        return [low, x_BCL - low]

    def band_series(self, inner_BCL: Tensor, band: int) -> Tensor:
        """The part of the series (B, C, length) that lies in a band's rows."""
        rows, hop = self.config.rows(band), self.config.hop
        planes = ops.stft(inner_BCL, self.window_W, hop, rows)
        reach = (planes.shape[3] - 1) * hop + (self.config.n_fft + 1) // 2
        series = ops.istft(planes, self.window_W, hop, rows[0], min(reach, inner_BCL.shape[2]))
        return series[..., : self.config.length]


def stft_window(config: TokenizerConfig) -> Tensor:
    """Hann; the scale makes the transform of white noise as loud as the noise."""
    # rounded once, so that the native engine has the same
    window_W = torch.hann_window(config.n_fft, device="cpu", dtype=torch.float64)
    return (window_W / math.sqrt(config.n_fft)).float()
