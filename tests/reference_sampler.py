"""The decoding loop of DESIGN section 3 as plainly as it can be written: what engines are held to.

No saving of any kind: every step asks the prior for all logits of all positions, in its own forward
pass, and each row is then drawn, scored and sorted by itself in Python's floats.
"""

import functools
import math

import torch
from torch import Tensor

from tsgen.config import SamplingConfig
from tsgen.network import Network
from tsgen.ops.philox import philox4x32
from tsgen.prior import Prior

SHARES = {
    "cosine": lambda r, n: math.cos(math.pi / 2 * r),
    "linear": lambda r, n: 1 - r,
    "square": lambda r, n: 1 - r**2,
    "cubic": lambda r, n: 1 - r**3,
    "sqrt": lambda r, n: 1 - r**0.5,
    "log": lambda r, n: min(1.0, -math.log2(r) / math.log2(max(n, 2))),
    "exp": lambda r, n: 1 - 2 ** (-math.log2(max(n, 2)) * (1 - r)),
}


def reference_tokens(
    network: Network,
    index: list[int],
    classes: list[int],
    settings: SamplingConfig,
    *,
    seed: int,
    known: list[Tensor] | None = None,
) -> list[Tensor]:
    """Token ids of every band, (B, N) int64 each; `network` has to be float64."""
    out: list[Tensor] = []
    for band, prior in enumerate(network.each_prior()):
        ids_BN = torch.full((len(index), prior.n_tokens), prior.n_codes)
        if known is not None:
            ids_BN = known[band].clone()
        unknown = [row.count(prior.n_codes) for row in ids_BN.tolist()]
        for step in range(settings.steps[band]):
            logits = all_logits(prior, ids_BN, classes, out[:1], settings.guidance).tolist()
            for b, row in enumerate(ids_BN.tolist()):
                place = (seed, index[b], step, band)
                row = decode_row(row, logits[b], prior.n_codes, unknown[b], place, settings)
                ids_BN[b] = torch.tensor(row)
        out.append(ids_BN)
    return out


@torch.no_grad()
def all_logits(
    prior: Prior, ids_BN: Tensor, classes: list[int], low: list[Tensor], guidance: float
) -> Tensor:
    """(B, N, K), by two whole forward passes."""
    class_B = torch.tensor(classes)
    with_class = prior(ids_BN, class_B, *low)
    without = prior(ids_BN, torch.full_like(class_B, prior.n_classes), *low)
    return without + guidance * (with_class - without)


def decode_row(
    row: list[int],
    logits: list[list[float]],
    mask: int,
    n_unknown: int,
    place: tuple[int, int, int, int],
    settings: SamplingConfig,
) -> list[int]:
    """One step of one series."""
    seed, index, step, band = place
    n_steps = settings.steps[band]
    noise = settings.choice_temperature[band] * (1 - (step + 1) / n_steps)
    confidence = {}
    row = list(row)
    for n in range(len(row)):
        if row[n] != mask:
            continue
        u, v = uniforms(seed, index, n, step, band)
        row[n] = draw(logits[n], u, settings)
        confidence[n] = log_probability(logits[n], row[n]) - noise * math.log(-math.log(v))
    share = SHARES[settings.schedule]((step + 1) / n_steps, n_unknown)
    n_masked = math.floor(n_unknown * share) if step + 1 < n_steps else 0
    # the least confident first; of equals the lower position is kept
    for n in sorted(confidence, key=lambda n: (confidence[n], -n))[:n_masked]:
        row[n] = mask
    return row


def draw(logits: list[float], u: float, settings: SamplingConfig) -> int:
    """Inverse CDF in code order, after temperature, top-k and top-p."""
    ranked = sorted(range(len(logits)), key=lambda k: (-logits[k], k))
    if settings.temperature == 0:
        return ranked[0]
    if settings.top_k:
        ranked = ranked[: settings.top_k]
    top = logits[ranked[0]]
    weight = {k: math.exp((logits[k] - top) / settings.temperature) for k in ranked}
    total, before, kept = sum(weight.values()), 0.0, {}
    for k in ranked:
        if before / total < settings.top_p:
            kept[k] = weight[k]
        before += weight[k]
    target, so_far = u * math.fsum(kept.values()), 0.0
    for k in sorted(kept):
        so_far += kept[k]
        if so_far > target:
            return k
    return max(kept)


def log_probability(logits: list[float], k: int) -> float:
    """At temperature 1, nothing cut."""
    top = max(logits)
    return logits[k] - top - math.log(math.fsum(math.exp(l - top) for l in logits))


@functools.cache
def uniforms(seed: int, index: int, position: int, step: int, band: int) -> tuple[float, float]:
    """52 bits each, in the middle of their cells."""
    low, high = index % 2**32, index >> 32
    w = philox4x32(low, high, position, step + band * 2**16, seed)
    u, v = ((w[i] * 2**32 + w[i + 1]) // 2**12 for i in (0, 2))
    return (u + 0.5) / 2**52, (v + 0.5) / 2**52
