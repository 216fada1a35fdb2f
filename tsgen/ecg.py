"""The dynamical model of the electrocardiogram, integrated for many series at once.

    dx/dt = a x - w y,  dy/dt = a y + w x,  a = 1 - sqrt(x^2 + y^2),  w = 2 pi / RR(t)
    dz/dt = -sum_i A_i d_i exp(-d_i^2 / (2 b_i^2)) - (z - z0(t)),  d_i = (angle - angle_i) mod 2 pi
    z0(t) = 0.005 sin(2 pi 0.25 t)                      (breathing moves the base line)

P. E. McSharry, G. D. Clifford, L. Tarassenko and L. A. Smith, "A dynamical model for generating
synthetic electrocardiogram signals", IEEE Trans. Biomed. Eng. 50(3), 2003: eq. 1, 2 and table 1
(events P, Q, R, S, T: angle_i, A_i, b_i). Ours: a second lead with its own A; widths that grow
with sqrt(rate / 60), as in the authors' program; RR(t) that swings with pressure (0.1 Hz) and
breathing (0.25 Hz), the two peaks of the paper's spectrum; and ST elevation, made of a shallow
S and a T that is early, wide and high, so that the stretch between them is raised.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

CLASSES = ("normal", "tachycardia", "ST elevation")
RATE_HZ = 128
SECONDS = 2

# Events           P           Q            R    S           T
_ANGLE = np.array([-np.pi / 3, -np.pi / 12, 0.0, np.pi / 12, np.pi / 2])
_WIDTH = np.array([0.25, 0.1, 0.1, 0.1, 0.4])
# The lead that the paper shows, and one from the chest: small P, deep S, high T.
_HEIGHT = np.array([[1.2, -5.0, 30.0, -7.5, 0.75], [0.5, -1.0, 12.0, -24.0, 1.1]])
# With ST elevation.
_ST_ANGLE, _ST_WIDTH = 1.15, 0.5  # of T
_ST_HEIGHT = np.array([1.0, 1.0, 1.0, 0.3, 1.3])  # times _HEIGHT
_MILLIVOLT = 25.0  # z of about 0.045 at R is about 1.1 mV
_BPM = ((60.0, 100.0), (110.0, 160.0), (60.0, 100.0))
_STEPS = 2  # integration steps per sample
_WARM_UP = RATE_HZ  # samples dropped: z forgets its start as exp(-t / 1 s)
_NOISE_MV = 0.01
_CASES = 256  # series integrated at once, so that their state stays in cache


def draw_ecg(rng: np.random.Generator, y: npt.NDArray[np.int64]) -> Doubles:
    """Two leads in millivolt, float64 (n, 2, 256), of series with classes y int64 (n,)."""
    n, st = len(y), y == 2
    low, high = np.array(_BPM)[y].T
    rr_s = 60 / rng.uniform(low, high)
    swing = np.stack([rng.uniform(0.01, 0.05, (2, n)), rng.uniform(0, 2 * np.pi, (2, n))])
    start = rng.uniform(-np.pi, np.pi, n)
    breath = rng.uniform(0, 2 * np.pi, n)
    height = _HEIGHT[:, None] * rng.normal(1, 0.1, (2, n, 5)) * np.where(st[:, None], _ST_HEIGHT, 1)
    angle, width = np.tile(_ANGLE, (n, 1)), np.tile(_WIDTH, (n, 1))
    angle[st, 4], width[st, 4] = _ST_ANGLE, _ST_WIDTH
    width *= rng.normal(1, 0.05, (n, 5)) / np.sqrt(rr_s[:, None])
    out = np.empty((n, 2, SECONDS * RATE_HZ))
    for i in range(0, n, _CASES):
        p = slice(i, i + _CASES)
        turn, base = _phase(rr_s[p], swing[:, :, p], start[p], breath[p])
        out[p] = _integrate(_force(turn, angle[p], width[p], height[:, p]) + base)
    return out * _MILLIVOLT + rng.normal(0, _NOISE_MV, out.shape)


def _phase(
    rr_s: Doubles, swing: Doubles, start: Doubles, breath: Doubles
) -> tuple[Doubles, Doubles]:
    """The angle and z0 at every half step (1 + 2 steps, n).

    The start is on the circle r = 1, where x and y say only this: d angle / dt = w(t).
    rr_s: mean interval (n,).  swing: size and phase (2, 2, n).  start, breath: phases (n,).
    """
    steps = (_WARM_UP + SECONDS * RATE_HZ) * _STEPS
    h = 1 / (RATE_HZ * _STEPS)
    t = np.arange(2 * steps + 1)[:, None] * h / 2
    (low, high), (low_phase, high_phase) = swing
    waves = low * np.sin(2 * np.pi * 0.1 * t + low_phase)
    waves += high * np.sin(2 * np.pi * 0.25 * t + high_phase)
    w = 2 * np.pi / (rr_s * (1 + waves))
    w0, middle, w1 = w[:-1:2], w[1::2], w[2::2]
    angle = np.empty_like(w)
    angle[0] = start
    angle[2::2] = start + np.cumsum(h / 6 * (w0 + 4 * middle + w1), axis=0)
    angle[1::2] = angle[:-1:2] + h / 24 * (5 * w0 + 8 * middle - w1)
    return angle, 0.005 * np.sin(2 * np.pi * 0.25 * t + breath)


def _force(turn: Doubles, angle: Doubles, width: Doubles, height: Doubles) -> Doubles:
    """The sum over the events, for both leads (2, half steps, n)."""
    out = np.zeros((2, *turn.shape))
    for i in range(len(_ANGLE)):
        d = turn - angle[:, i]
        d -= 2 * np.pi * np.rint(d / (2 * np.pi))
        d *= np.exp(-0.5 * (d / width[:, i]) ** 2)
        out[0] -= height[0, :, i] * d
        out[1] -= height[1, :, i] * d
    return out


def _integrate(force: Doubles) -> Doubles:
    """The z of both leads, (n, 2, samples), of dz/dt = force - z by 4th-order Runge-Kutta."""
    h = 1 / (RATE_HZ * _STEPS)
    samples = SECONDS * RATE_HZ
    z = np.zeros((2, force.shape[2]))
    out = np.empty((samples, *z.shape))
    for step in range((_WARM_UP + samples) * _STEPS):
        first, middle, last = (force[:, 2 * step + i] for i in range(3))
        k1 = first - z
        k2 = middle - (z + h / 2 * k1)
        k3 = middle - (z + h / 2 * k2)
        k4 = last - (z + h * k3)
        z = z + h / 6 * (k1 + 2 * (k2 + k3) + k4)
        sample, rest = divmod(step + 1, _STEPS)
        if rest == 0 and sample > _WARM_UP:
            out[sample - _WARM_UP - 1] = z
    return out.transpose(2, 1, 0)
