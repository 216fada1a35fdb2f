"""Random-convolution features of time series (ROCKET) and the ridge classifier on them.

z_k(t) = b_k + Σ_c Σ_j w_kcj x_c(t + (j − (J−1)/2) d_k); per kernel k two features:
max_t z_k(t), and PPV, the share of t with z_k(t) > 0.
Dempster, Petitjean, Webb: ROCKET, Data Mining and Knowledge Discovery 34 (2020), section 3;
channel subsets as in its multivariate version (sktime, aeon).
Float64 throughout: float32 rounding differs with machine and batch, and flips PPV's signs.
Ridge with its leave-one-out error in closed form: Rifkin and Lippert, MIT-CSAIL-TR-2007-025.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tsgen.data import as_series
from tsgen.errors import bad_type, bad_value

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Strings = npt.NDArray[np.str_]

_LENGTHS = (7, 9, 11)
_BLOCK_KERNELS = 64
_SERIAL_PRODUCT = 1 << 18  # multiply-adds up to which OpenBLAS uses one thread: on a busy machine
# its barriers cost up to ten times what a second core gains
_ALPHAS = np.logspace(-3, 3, 10)
_CHUNK_BYTES = 1 << 22  # convolution outputs of one chunk: they stay in the last-level cache


@dataclass(frozen=True)
class _Block:
    """Kernels of one dilation, sorted by margin; a margin is what an unpadded kernel loses."""

    dilation: int
    weight_KJ: Doubles  # J runs over channels and taps
    threshold_K: Doubles  # minus the bias: added to the maximum, not to every sample
    ids_K: npt.NDArray[np.intp]
    runs: tuple[tuple[int, int, int], ...]  # first kernel, end, margin in samples


class RocketFeatures:
    """Maps series to ROCKET features: K maxima, then K shares of positive values (PPV).

    n_channels, length: of the series it will be given; length >= 2. Kernel lengths are 7, 9
        and 11, but never over the length (its largest odd number, at least 3).
    n_kernels: K; the features number 2 K.
    seed: fixes the kernels; no global random state is read or written.
    reference: (n, channels, time), real numbers; where given, each channel is shifted and
        scaled by this set's mean and standard deviation first (biases presume such data).
    Raises ArgumentError for sizes below their least, or a reference of other shape.
    Source: Dempster, Petitjean, Webb, ROCKET (2020).
    """

    def __init__(
        self,
        n_channels: int,
        length: int,
        n_kernels: int = 1000,
        seed: int = 0,
        *,
        reference: object | None = None,
    ) -> None:
        sizes = {"n_channels": (n_channels, 1), "length": (length, 2), "n_kernels": (n_kernels, 1)}
        for name, (value, least) in {**sizes, "seed": (seed, 0)}.items():
            if not isinstance(value, int | np.integer) or isinstance(value, bool):
                raise bad_type(name, "an int", value)
            if value < least:
                raise bad_value(name, f"an int >= {least}", value)
        self.n_channels, self.length = int(n_channels), int(length)
        self.n_kernels, self.seed = int(n_kernels), int(seed)
        self._shift_C1, self._scale_C1 = self._channel_scale(reference)
        self._blocks = _draw_blocks(self.n_channels, self.length, self.n_kernels, self.seed)

    def __call__(self, x: object, *, chunk_size: int | None = None) -> Doubles:
        """Return the features, (n, 2 K) float64.

        x: (n, channels, time), or (n, time) for one channel; float32 (see `tsgen.data.as_series`).
        chunk_size: series convolved at once; bounds memory, leaves the result as it is.
        Raises ArgumentError or ArgumentTypeError for unusable series or another shape.
        """
        x_BCL = self._checked(x, "x")
        if chunk_size is not None and chunk_size < 1:
            raise bad_value("chunk_size", "an int >= 1 or None", chunk_size)
        n_rows = _BLOCK_KERNELS + self.n_channels * max(_LENGTHS)
        chunk = chunk_size or max(1, _CHUNK_BYTES // (8 * n_rows * self.length))
        features_BD = np.empty((len(x_BCL), 2 * self.n_kernels))
        for first in range(0, len(x_BCL), chunk):
            rows = slice(first, first + chunk)
            self._fill((x_BCL[rows] - self._shift_C1) / self._scale_C1, features_BD[rows])
        return features_BD

    def _checked(self, x: object, name: str) -> Floats:
        x_BCL = as_series(x, name=name)
        if x_BCL.shape[1:] != (self.n_channels, self.length):
            wanted = f"series of {self.n_channels} channels and {self.length} samples"
            raise bad_value(name, wanted, f"shape {x_BCL.shape}")
        return x_BCL

    def _channel_scale(self, reference: object | None) -> tuple[Doubles, Doubles]:
        if reference is None:
            return np.zeros((self.n_channels, 1)), np.ones((self.n_channels, 1))
        x_BCL = self._checked(reference, "reference")
        shift_C1 = x_BCL.mean(axis=(0, 2), dtype=np.float64)[:, None]
        scale_C1 = x_BCL.std(axis=(0, 2), dtype=np.float64)[:, None]
        constant_C1 = scale_C1 <= 1e-6 * np.abs(shift_C1)
        return shift_C1, np.where(constant_C1, 1.0, scale_C1)

    def _fill(self, x_BCL: Doubles, features_BD: Doubles) -> None:
        for block in self._blocks:
            z_BKL = _convolve(x_BCL, block)
            for first, end, margin in block.runs:
                z_BKM = z_BKL[:, first:end, margin : self.length - margin]
                threshold_K = block.threshold_K[first:end]
                ids_K = block.ids_K[first:end]
                features_BD[:, ids_K] = z_BKM.max(-1) - threshold_K
                n_positive_BK = np.count_nonzero(z_BKM > threshold_K[:, None], axis=-1)
                features_BD[:, self.n_kernels + ids_K] = n_positive_BK / z_BKM.shape[-1]


def _convolve(x_BCL: Doubles, block: _Block) -> Doubles:
    n_series, n_channels, length = x_BCL.shape
    n_taps = block.weight_KJ.shape[1] // n_channels
    pad = (n_taps - 1) // 2 * block.dilation
    padded_BCM = np.pad(x_BCL, ((0, 0), (0, 0), (pad, pad)))
    stride_b, stride_c, stride_m = padded_BCM.strides
    taps_BCJL = np.lib.stride_tricks.as_strided(
        padded_BCM,
        (n_series, n_channels, n_taps, length),
        (stride_b, stride_c, stride_m * block.dilation, stride_m),
        writeable=False,
    )
    taps_BJL = taps_BCJL.reshape(n_series, n_channels * n_taps, length)
    z_BKL = np.empty((n_series, len(block.weight_KJ), length))
    width = max(16, _SERIAL_PRODUCT // block.weight_KJ.size)
    for first in range(0, length, width):
        samples = slice(first, first + width)
        np.matmul(block.weight_KJ, taps_BJL[:, :, samples], out=z_BKL[:, :, samples])
    return z_BKL


def _draw_blocks(n_channels: int, length: int, n_kernels: int, seed: int) -> list[_Block]:
    rng = np.random.Generator(np.random.PCG64(seed))
    longest = max(3, length - (1 - length % 2))
    taps_K = np.minimum(rng.choice(_LENGTHS, size=n_kernels), longest)
    top_K = np.log2(np.maximum(1.0, (length - 1) / (taps_K - 1)))
    dilation_K = (2.0 ** (rng.random(n_kernels) * top_K)).astype(np.int64)
    span_K = (taps_K - 1) * dilation_K
    padded_K = (rng.random(n_kernels) < 0.5) | (span_K >= length)
    margin_K = np.where(padded_K, 0, span_K // 2)
    bias_K = rng.uniform(-1.0, 1.0, size=n_kernels)
    weight_KCJ = _draw_weights(rng, n_channels, taps_K)
    order_K = np.lexsort((margin_K, dilation_K))
    cuts = np.flatnonzero(np.diff(dilation_K[order_K])) + 1
    groups = [
        ids_K[first : first + _BLOCK_KERNELS]
        for ids_K in np.split(order_K, cuts)
        for first in range(0, len(ids_K), _BLOCK_KERNELS)
    ]
    blocks = []
    for ids_K in groups:
        edges = np.flatnonzero(np.diff(margin_K[ids_K], prepend=-1, append=-1))
        runs = tuple(
            (int(first), int(end), int(margin_K[ids_K[first]])) for first, end in pairwise(edges)
        )
        weight_KJ = weight_KCJ[ids_K].reshape(len(ids_K), -1)
        blocks.append(_Block(int(dilation_K[ids_K[0]]), weight_KJ, -bias_K[ids_K], ids_K, runs))
    return blocks


def _draw_weights(
    rng: np.random.Generator, n_channels: int, taps_K: npt.NDArray[np.int64]
) -> Doubles:
    """Weights (K, C, taps) with a shorter kernel in the middle, zeros beside it."""
    n_kernels, width = len(taps_K), int(taps_K.max())
    outer_J = np.abs(np.arange(width) - width // 2)
    used_K1J = outer_J <= (taps_K // 2)[:, None, None]
    weight_KCJ = rng.standard_normal((n_kernels, n_channels, width)) * used_K1J
    weight_KCJ -= weight_KCJ.sum(-1, keepdims=True) / taps_K[:, None, None] * used_K1J
    limit_K = np.minimum(n_channels, taps_K)
    n_used_K = (2.0 ** (rng.random(n_kernels) * np.log2(limit_K + 1))).astype(np.int64)
    rank_KC = rng.random((n_kernels, n_channels)).argsort(-1).argsort(-1)
    kept: Doubles = weight_KCJ * (rank_KC < n_used_K[:, None])[:, :, None]
    return kept


def standardisation(z_BD: Doubles) -> tuple[Doubles, Doubles]:
    """Return each feature's shift and scale, (D,) each: its mean and standard deviation.

    z_BD: (n, D) features. A scale is at least 3 % of the median one, else features that hardly
        vary in this set would drown the others in any other set; 1 where nothing varies.
    """
    scale_D = z_BD.std(0)
    scale_D = np.maximum(scale_D, 0.03 * np.median(scale_D))
    return z_BD.mean(0), np.where(scale_D > 0, scale_D, 1.0)


def ridge_predict(train_BD: Doubles, y_train_B: Strings, test_BD: Doubles) -> Strings:
    """Return the labels (m,) that a ridge classifier of train gives to test.

    train_BD, test_BD: (n, D) and (m, D) finite features, standardised here on train.
    y_train_B: (n,) labels. One-vs-rest targets ±1, an intercept, and that penalty out of ten
        from 1e-3 to 1e3 which has the least squared leave-one-out error over all targets.
    """
    shift_D, scale_D = standardisation(train_BD)
    classes_Y, ids_B = np.unique(y_train_B, return_inverse=True)
    target_BY = 2.0 * (ids_B[:, None] == np.arange(len(classes_Y))) - 1.0
    mean_Y = target_BY.mean(0)
    weight_DY = _ridge_weights((train_BD - shift_D) / scale_D, target_BY - mean_Y)
    score_BY = (test_BD - shift_D) / scale_D @ weight_DY + mean_Y
    predicted_B: Strings = classes_Y[score_BY.argmax(1)]
    return predicted_B


def _ridge_weights(x_BD: Doubles, target_BY: Doubles) -> Doubles:
    """Ridge of centred x and targets, by eigenvectors of the smaller Gram matrix."""
    n_series, width = x_BD.shape
    if n_series <= width:
        power_R, left_BR = np.linalg.eigh(x_BD @ x_BD.T)
        kept = power_R > 1e-14 * power_R[-1]  # centring makes one direction empty
        power_R, left_BR = power_R[kept], left_BR[:, kept]
        axes_DR = x_BD.T @ left_BR / np.sqrt(power_R)
        scores_BR = left_BR * np.sqrt(power_R)
    else:
        power_R, axes_DR = np.linalg.eigh(x_BD.T @ x_BD)
        power_R = np.maximum(power_R, 0.0)
        scores_BR = x_BD @ axes_DR
    moment_RY = scores_BR.T @ target_BY
    best_loss, best_RY = np.inf, moment_RY
    for alpha in _ALPHAS:
        solution_RY = moment_RY / (power_R + alpha)[:, None]
        residual_BY = target_BY - scores_BR @ solution_RY
        leverage_B = 1 / n_series + scores_BR**2 @ (1 / (power_R + alpha))
        left_out_BY = residual_BY / np.maximum(1 - leverage_B, 1e-12)[:, None]
        loss = float((left_out_BY**2).mean())
        if loss < best_loss:
            best_loss, best_RY = loss, solution_RY
    weight_DY: Doubles = axes_DR @ best_RY
    return weight_DY
