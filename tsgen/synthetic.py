"""Series from published formulas, with classes: CBF, control charts, two patterns, ECG.

Every generator is a function of its arguments alone: (n, label, seed, normalize) always gives
the same series, and no global random state is read or written. The classes are in the order of
the UCR archive where it has the set: UCR's class k is index k - 1 here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tsgen.ecg import CLASSES as ECG_CLASSES
from tsgen.ecg import RATE_HZ, draw_ecg
from tsgen.errors import bad_value
from tsgen.labels import Labels

__all__ = ["GENERATORS", "Generator", "cbf", "ecg", "synthetic_control", "two_patterns"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

_CBF = ("cylinder", "bell", "funnel")
_CONTROL = ("normal", "cyclic", "increasing", "decreasing", "upward shift", "downward shift")
_PATTERNS = ("down-down", "up-down", "down-up", "up-up")
_AT_ONCE = 4096  # series in float64 at a time, to bound memory


def cbf(n: int, *, label: Any = None, seed: int = 0, normalize: bool = True) -> tuple[Floats, Ints]:
    """Cylinder, bell, funnel: X float32 (n, 1, 128), y int64 (n,) class indices.

    With a ~ U{16..32}, b - a ~ U{32..96}, height 6 + N(0, 1) and noise N(0, 1), t = 1..128:
    a plateau on [a, b], a ramp up to b, or a ramp down from a. N. Saito, "Local feature
    extraction and its applications using a library of bases", PhD thesis, Yale 1994. (UCR's
    copy differs, as measured: height 6 in every series, and b ~ U{64..128} whatever a is.)

    n: how many, at least 0.  seed: 0..2^64-1.
    label: a class (name or index), one for all or one per series; None: all in equal parts.
    normalize: make each series mean 0 and standard deviation 1 (n - 1), as UCR has it.
    """
    return _make(_draw_cbf, _CBF, (1, 128), n, label, seed, normalize)


def synthetic_control(
    n: int, *, label: Any = None, seed: int = 0, normalize: bool = True
) -> tuple[Floats, Ints]:
    """Six kinds of control chart: X float32 (n, 1, 60), y int64 (n,) class indices.

    30 + 2 r(t), r ~ U(-3, 3), plus one of: nothing; a sin(2 pi t / T), a, T ~ U(10, 15); g t or
    -g t, g ~ U(0.2, 0.5); +x or -x from sample t3 on, x ~ U(7.5, 20), t3 ~ U(20, 40). t = 0..59.
    R. J. Alcock and Y. Manolopoulos, "Time-series similarity queries employing a feature-based
    approach", 7th Hellenic Conference on Informatics, 1999.

    n, label, seed, normalize: as in `cbf`.
    """
    return _make(_draw_control, _CONTROL, (1, 60), n, label, seed, normalize)


def two_patterns(
    n: int, *, label: Any = None, seed: int = 0, normalize: bool = True
) -> tuple[Floats, Ints]:
    """Two steps, each up or down, in noise: X float32 (n, 1, 128), y int64 (n,) class indices.

    Noise N(0, 1), in which two stretches of l1, l2 ~ U{16..32} samples, that do not overlap, are
    replaced by a step from -5 to 5 (up) or 5 to -5 (down) at their middle. The first starts at
    U{0..f-1}, f = 128 - l1 - l2; the second follows after a gap that is uniform in what is
    left. P. Geurts, "Contributions to decision tree induction: bias/variance tradeoff and
    time series classification", PhD thesis, Liège 2002; places and lengths as in UCR's set.

    n, label, seed, normalize: as in `cbf`.
    """
    return _make(_draw_patterns, _PATTERNS, (1, 128), n, label, seed, normalize)


def ecg(n: int, *, label: Any = None, seed: int = 0, normalize: bool = True) -> tuple[Floats, Ints]:
    """Two leads of an electrocardiogram, 2 s at 128 Hz: X float32 (n, 2, 256), y int64 (n,).

    The dynamical model of McSharry et al. 2003 (`tsgen.ecg` has equations and parameters), with
    a heart rate that varies from series to series and from beat to beat. Classes: normal,
    tachycardia (fast), ST elevation (the stretch after each beat is raised).

    n, label, seed: as in `cbf`.
    normalize: make each lead mean 0 and standard deviation 1; else millivolt.
    """
    return _make(draw_ecg, ECG_CLASSES, (2, 2 * RATE_HZ), n, label, seed, normalize)


Draw = Callable[[np.random.Generator, Ints], Doubles]


def _make(
    draw: Draw,
    classes: tuple[str, ...],
    shape: tuple[int, int],
    n: int,
    label: Any,
    seed: int,
    normalize: bool,
) -> tuple[Floats, Ints]:
    """Check the arguments, draw in blocks, normalise."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
        raise bad_value("n", "a whole number of at least 0", n)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise bad_value("seed", "a whole number in 0..2^64-1", seed)
    rng = np.random.Generator(np.random.PCG64(int(seed)))
    if label is None:
        y = rng.permutation(np.arange(n, dtype=np.int64) % len(classes))
    else:
        y = Labels(classes).encode(label, int(n))
    X = np.empty((int(n), *shape), np.float32)
    for start in range(0, int(n), _AT_ONCE):
        block = draw(rng, y[start : start + _AT_ONCE])
        if normalize:
            block -= block.mean(axis=2, keepdims=True)
            block /= block.std(axis=2, ddof=1, keepdims=True)
        X[start : start + _AT_ONCE] = block
    return X, y


def _draw_cbf(rng: np.random.Generator, y: Ints) -> Doubles:
    n = len(y)
    t = np.arange(1, 129)
    a = rng.integers(16, 33, (n, 1))
    b = a + rng.integers(32, 97, (n, 1))
    height = 6 + rng.standard_normal((n, 1))
    up, down = (t - a) / (b - a), (b - t) / (b - a)
    kind = y[:, None]
    shape = np.where(kind == 0, 1.0, np.where(kind == 1, up, down))
    signal: Doubles = height * shape * ((t >= a) & (t <= b)) + rng.standard_normal((n, 128))
    return signal[:, None, :]


def _draw_control(rng: np.random.Generator, y: Ints) -> Doubles:
    n = len(y)
    t = np.arange(60)
    noise = 30 + 2 * rng.uniform(-3, 3, (n, 60))
    amplitude, period = rng.uniform(10, 15, (2, n, 1))
    slope = rng.uniform(0.2, 0.5, (n, 1))
    step, at = rng.uniform(7.5, 20, (n, 1)), rng.uniform(20, 40, (n, 1))
    kind = y[:, None]
    added = np.where(kind == 1, amplitude * np.sin(2 * np.pi * t / period), 0.0)
    added += np.where(kind == 2, slope * t, 0.0) - np.where(kind == 3, slope * t, 0.0)
    shift = step * (t + 1 >= at)  # samples count from 1, time from 0: so UCR's set has it
    added += np.where(kind == 4, shift, 0.0) - np.where(kind == 5, shift, 0.0)
    series: Doubles = noise + added
    return series[:, None, :]


def _draw_patterns(rng: np.random.Generator, y: Ints) -> Doubles:
    n = len(y)
    t = np.arange(128)
    x = rng.standard_normal((n, 128))
    length = rng.integers(16, 33, (2, n, 1))
    free = 128 - length.sum(axis=0)
    start = rng.integers(0, free)
    gap = rng.integers(0, free - start)
    # Bit 0 of the class: does the first step go up? Bit 1: does the second?
    for i, first in enumerate((start, start + length[0] + gap)):
        at = t - first
        inside = (at >= 0) & (at < length[i])
        level = np.where(at < (length[i] + 1) // 2, -5.0, 5.0)
        x = np.where(inside, np.where((y[:, None] >> i) & 1, level, -level), x)
    return x[:, None, :]


class Make(Protocol):
    """The call that every generator answers."""

    def __call__(
        self, n: int, *, label: Any = None, seed: int = 0, normalize: bool = True
    ) -> tuple[Floats, Ints]: ...


@dataclass(frozen=True)
class Generator:
    """A generator and what it makes.

    make: the function.  classes: names in order of index.  channels, length: of each series.
    """

    make: Make
    classes: tuple[str, ...]
    channels: int
    length: int


GENERATORS: dict[str, Generator] = {
    "cbf": Generator(cbf, _CBF, 1, 128),
    "synthetic_control": Generator(synthetic_control, _CONTROL, 1, 60),
    "two_patterns": Generator(two_patterns, _PATTERNS, 1, 128),
    "ecg": Generator(ecg, ECG_CLASSES, 2, 2 * RATE_HZ),
}
