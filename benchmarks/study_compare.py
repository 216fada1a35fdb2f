"""The study's comparisons: which runs take part, what of them is compared, and against what.

Dims: S sets, R seeds, V variants.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from study_plan import BASE, SEEDS, SETS, VARIANTS, Budget, Cell, finished
from study_stats import Interval, holm, mean_interval, mean_ranks, rank_difference, signed_rank

Row = dict[str, Any]
Found = dict[Cell, Row]
Doubles = NDArray[np.float64]

PEER = "timevqvae"


@dataclass(frozen=True)
class Metric:
    """What is compared: a number of a run; `sign` is 1 where more is better, -1 where less is."""

    of: Callable[[Row], float | None]
    sign: int
    ratio: bool = False  # compared by its logarithm: sets differ in size more than variants do
    unlike: tuple[str, ...] = ()  # variants of which it says another thing than of base

    def value(self, row: Row) -> float:
        """NaN where the run has no such number."""
        value = None if "error" in row else self.of(row)
        if value is None:
            return math.nan
        return math.log(max(value, 1e-12)) if self.ratio else value

    def shown(self, mean: Interval) -> str:
        """A mean difference to base with its interval: a ratio, or percentage points."""
        if self.ratio:
            return ranged(tuple(math.exp(end) for end in mean), ".2f")
        return ranged(tuple(100 * end for end in mean), "+.1f")


def ranged(mean: Sequence[float], form: str = ".1f") -> str:
    """A mean and its interval, where there is one."""
    value, low, high = (f"{end:{form}}" for end in mean)
    return value if math.isnan(mean[1]) else f"{value} ({low} to {high})"


def probed(name: str) -> Callable[[Row], float | None]:
    """The value of one probe, where the model has what it looks at."""
    return lambda row: row["probes"].get(name, {}).get("value")


OTHER_CODES = ("FSQ", "residual codes", "one band", "VAE", PEER)  # other numbers of them than base

GENERATION = {
    "FID": Metric(lambda row: row["fid"], -1, ratio=True),
    "TSTR": Metric(lambda row: row["tstr"], 1),
}
DESCRIPTION = {
    "reconstruction": Metric(lambda row: row["reconstruction"], -1, ratio=True),
    "perplexity, low": Metric(probed("perplexity_0"), 1, ratio=True, unlike=OTHER_CODES),
    "perplexity, high": Metric(probed("perplexity_1"), 1, ratio=True, unlike=OTHER_CODES),
    "codes used, low": Metric(probed("usage_0"), 1, unlike=OTHER_CODES),
    "codes used, high": Metric(probed("usage_1"), 1, unlike=OTHER_CODES),
    "seconds, training": Metric(lambda row: row["cpu_seconds"], -1, ratio=True),
}
PROBES = {
    f"{how}, {what}": Metric(probed(f"{name}_{what}"), 1)
    for what in ("latents", "codes", "tokens")
    for name, how in (("knn", "k-NN"), ("linear", "linear"), ("svm", "SVM"))
}


@dataclass(frozen=True)
class Runs:
    """All runs there are; only those of seeds that every set and variant has are compared.

    So all tables are of the same runs, and none of whichever were done first.
    """

    found: Found
    n_outdated: int = 0  # rows of other settings than those of now

    @functools.cached_property
    def seeds(self) -> tuple[int, ...]:
        """Those that are whole."""
        parts = [(s, v) for s in SETS for v in VARIANTS]
        return tuple(
            seed for seed in SEEDS if all(Cell(s, v, seed) in self.found for s, v in parts)
        )

    @property
    def are_all(self) -> bool:
        """Whether nothing is left to run."""
        return self.seeds == SEEDS

    def values(
        self, metric: Metric, variants: Sequence[str], sets: Sequence[str] = tuple(SETS)
    ) -> tuple[list[str], Doubles]:
        """The sets where all these variants have a number with every whole seed, and the numbers
        (S, R, V)."""
        found, seeds = self.found, self.seeds
        value_SRV = np.array(
            [[[metric.value(found[Cell(s, v, r)]) for v in variants] for r in seeds] for s in sets]
        ).reshape(len(sets), len(seeds), len(variants))
        whole_S = np.isfinite(value_SRV).all((1, 2)) & bool(seeds)
        return [s for s, whole in zip(sets, whole_S, strict=True) if whole], value_SRV[whole_S]

    def against_base(
        self, metric: Metric, variant: str, sets: Sequence[str] = tuple(SETS)
    ) -> Doubles:
        """Differences (S, R) of a variant to base, of the same set and seed."""
        value_SRV = self.values(metric, [BASE, variant], sets)[1]
        difference_SR: Doubles = value_SRV[:, :, 1] - value_SRV[:, :, 0]
        return difference_SR

    def tested(self, metric: Metric) -> dict[str, float]:
        """Holm's p of every variant with a set to compare; the others are comparisons, too."""
        differences = {v: self.against_base(metric, v) for v in VARIANTS if v != BASE}
        p = holm({v: signed_rank(d.mean(1)) if len(d) else 1.0 for v, d in differences.items()})
        return {v: p[v] for v, d in differences.items() if len(d)}

    def ranked(self, name: str, sets: Sequence[str] = tuple(SETS)) -> dict[str, Interval]:
        """Mean ranks, 1 the best, of the variants that have a number on every set that base has."""
        whole, value_SRV = self.rankable(name, sets)
        return dict(zip(whole, mean_ranks(value_SRV), strict=True)) if whole else {}

    def rank_difference(self, name: str, a: str, b: str, sets: Sequence[str]) -> Interval:
        """Mean rank of one variant less another's, among all that `ranked` ranks."""
        whole, value_SRV = self.rankable(name, sets)
        return rank_difference(value_SRV, whole.index(a), whole.index(b))

    def rankable(self, name: str, sets: Sequence[str]) -> tuple[list[str], Doubles]:
        """Variants that have a number on every set that base has, and these, the least best."""
        metric = GENERATION[name]
        own, _ = self.values(metric, [BASE], sets)
        whole = [v for v in VARIANTS if own and self.values(metric, [BASE, v], sets)[0] == own]
        return whole, -metric.sign * self.values(metric, whole, sets)[1]

    def n_diverged(self, variant: str) -> int:
        """Runs of the whole seeds that came out not finite."""
        cells = [Cell(s, variant, seed) for s in SETS for seed in self.seeds]
        return sum("error" in self.found[cell] for cell in cells)


def difference(runs: Runs, metric: Metric, variant: str, sets: Sequence[str] = tuple(SETS)) -> str:
    """A variant's mean difference to base as it is shown; nothing where there is none to tell."""
    if variant == BASE or variant in metric.unlike:
        return ""
    difference_SR = runs.against_base(metric, variant, sets)
    return metric.shown(mean_interval(difference_SR)) if len(difference_SR) else ""


def load(path: Path, budget: Budget) -> Runs:
    """The runs there are. Raises ValueError where seeds of a variant are of different models."""
    # a worker may be at it: behind the last line end is half a row
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    rows = [json.loads(line) for line in lines]
    found = finished(rows, budget)
    configs: dict[tuple[str, str], Any] = {}
    for cell, row in found.items():
        if "error" in row:
            continue
        first = configs.setdefault((cell.set, cell.variant), row["config"])
        if row["config"] != first:
            wanted = f"the same config for all seeds of {cell.set}, {cell.variant}"
            raise ValueError(f"study: wanted {wanted}, got {first} and {row['config']}")
    return Runs(found, len(rows) - len(found))
