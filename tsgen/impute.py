"""In-painting: what is known stays, what is missing is drawn to fit it.

Tokens whose stretch of time has nothing missing are kept and the prior draws the others. The
decoded series differs a little from the known values beside a gap; that difference is carried into
the gap and fades out, so that no step shows where the known part ends.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsgen.config import TokenizerConfig

Floats = NDArray[np.float32]


def filled(x_NCL: Floats) -> Floats:
    """NaN replaced along time by a straight line between its neighbours, or by 0 if all is NaN."""
    out = x_NCL.copy()
    time = np.arange(out.shape[2])
    for series in out.reshape(-1, out.shape[2]):  # a view: one row per series and channel
        missing = np.isnan(series)
        if missing.all():
            series[:] = 0
        elif missing.any():
            series[missing] = np.interp(time[missing], time[~missing], series[~missing])
    return out


def known_tokens(
    missing_NL: NDArray[np.bool_], config: TokenizerConfig, band: int
) -> NDArray[np.bool_]:
    """(n, tokens of the band): True where the token's own time, and a window about it, is known."""
    rows, columns = config.grid(band)
    stride = config.hop << config.n_halvings(band)  # samples between tokens
    known = np.ones((len(missing_NL), columns), dtype=np.bool_)
    for column in range(columns):
        first = max(0, column * stride - config.n_fft)
        # the last column answers for what is left of the series
        end = (column + 1) * stride + config.n_fft if column + 1 < columns else None
        known[:, column] = ~missing_NL[:, first:end].any(1)
    return np.tile(known, (1, config.depth * rows))


def masked(
    ids: list[Tensor], missing_NL: NDArray[np.bool_], config: TokenizerConfig
) -> list[Tensor]:
    """Token ids of every band, [MASK] where they have to be drawn."""
    return [
        torch.where(
            torch.from_numpy(known_tokens(missing_NL, config, band)),
            ids_BN.cpu(),
            config.n_codes[band],
        )
        for band, ids_BN in enumerate(ids)
    ]


def stitched(x_NCL: Floats, drawn_NCL: Floats, fade: int) -> Floats:
    """The known values of x, and in its gaps the drawn ones, corrected to meet them.

    x_NCL:      (n, C, L), NaN where missing
    drawn_NCL:  (n, C, L), all of it
    fade:       samples over which the difference at a border dies away
    """
    out = x_NCL.copy()
    for known, drawn, result in zip(
        x_NCL.reshape(-1, x_NCL.shape[2]),
        drawn_NCL.reshape(-1, x_NCL.shape[2]),
        out.reshape(-1, x_NCL.shape[2]),
        strict=True,
    ):
        for first, end in gaps(np.isnan(known)):
            piece = drawn[first:end] + bridge(known - drawn, first, end, fade)
            result[first:end] = piece.astype(np.float32)
    return out


def gaps(missing_L: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Runs of True as (first, end)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], missing_L, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def bridge(off_L: Floats, first: int, end: int, fade: int) -> NDArray[np.float64]:
    """The border differences on both sides of a gap, each fading out across it."""
    reach = min(fade, end - first + 1)
    steps = np.arange(1, end - first + 1)
    correction = np.zeros(end - first)
    if first > 0:
        correction += off_L[first - 1] * np.clip(1 - steps / reach, 0, 1)
    if end < len(off_L):
        correction += off_L[end] * np.clip(1 - steps[::-1] / reach, 0, 1)
    return correction
