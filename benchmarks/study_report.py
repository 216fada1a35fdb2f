"""docs/study.md between its marks, from results/study.jsonl; `report.py` writes and checks it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from study_plan import BASE, RESULTS, SEEDS, SETS, VARIANTS, Budget, Cell, cells, finished
from study_stats import (
    Interval,
    holm,
    mean_interval,
    mean_ranks,
    rank_difference,
    signed_rank,
)

Row = dict[str, Any]
Found = dict[Cell, Row]
Doubles = NDArray[np.float64]

PEER = "timevqvae"
LEVEL = 0.05
NOTHING = ["No run has been done yet: `python benchmarks/study.py`.", ""]


@dataclass(frozen=True)
class Metric:
    """What is compared: a number of a run; `sign` is 1 where more is better, -1 where less is."""

    of: Callable[[Row], float | None]
    sign: int
    ratio: bool = False  # compared by its logarithm: sets differ in size more than variants do

    def value(self, row: Row) -> float:
        """NaN where the run has no such number."""
        value = None if "error" in row else self.of(row)
        if value is None:
            return math.nan
        return math.log(max(value, 1e-12)) if self.ratio else value

    def shown(self, mean: Interval) -> str:
        """A mean difference to base with its interval: a ratio, or percentage points."""
        if self.ratio:
            value, low, high = (f"{math.exp(end):.2f}" for end in mean)
            return f"{value} ({low} to {high})"
        value, low, high = (f"{100 * end:+.1f}" for end in mean)
        return f"{value} ({low} to {high})"


def probed(name: str) -> Callable[[Row], float | None]:
    """The value of one probe, where the model has what it looks at."""
    return lambda row: row["probes"].get(name, {}).get("value")


GENERATION = {
    "FID": Metric(lambda row: row["fid"], -1, ratio=True),
    "TSTR": Metric(lambda row: row["tstr"], 1),
}
REPRESENTATION = {
    "reconstruction": Metric(lambda row: row["reconstruction"], -1, ratio=True),
    "k-NN of latents": Metric(probed("knn_latents"), 1),
    "linear, latents": Metric(probed("linear_latents"), 1),
    "SVM of latents": Metric(probed("svm_latents"), 1),
    "linear, tokens": Metric(probed("linear_tokens"), 1),
    "perplexity, low": Metric(probed("perplexity_0"), 1, ratio=True),
    "perplexity, high": Metric(probed("perplexity_1"), 1, ratio=True),
    "seconds, stage 1": Metric(lambda row: next(iter(row["seconds"].values())), -1, ratio=True),
    "seconds, training": Metric(lambda row: sum(row["seconds"].values()), -1, ratio=True),
}


def values(found: Found, metric: Metric, variants: list[str]) -> tuple[list[str], Doubles]:
    """The sets that have all seeds of all these variants, and their values (S, R, V)."""
    value_SRV = np.array(
        [
            [
                [metric.value(found.get(Cell(s, v, seed), {"error": ""})) for v in variants]
                for seed in SEEDS
            ]
            for s in SETS
        ]
    )
    whole_S = np.isfinite(value_SRV).all((1, 2))
    return [s for s, whole in zip(SETS, whole_S, strict=True) if whole], value_SRV[whole_S]


def against_base(found: Found, metric: Metric, variant: str) -> Doubles:
    """Differences (S, R) of a variant to base, of the same set and seed."""
    value_SRV = values(found, metric, [BASE, variant])[1]
    difference_SR: Doubles = value_SRV[:, :, 1] - value_SRV[:, :, 0]
    return difference_SR


def tested(found: Found, metric: Metric) -> dict[str, float]:
    """Holm's p of every variant that has been run; those that have not are comparisons, too."""
    differences = {v: against_base(found, metric, v) for v in VARIANTS if v != BASE}
    p = holm({v: signed_rank(d.mean(1)) if len(d) else 1.0 for v, d in differences.items()})
    return {v: p[v] for v, d in differences.items() if len(d)}


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def generation(found: Found) -> list[str]:
    """FID and TSTR of every variant beside base's, and mean ranks."""
    p = {name: tested(found, metric) for name, metric in GENERATION.items()}
    ranks = {name: ranked(found, name) for name in GENERATION}
    rows = []
    for v in VARIANTS:
        row, n = [v], 0
        n_diverged = sum(cell.variant == v and "error" in found[cell] for cell in found)
        for name, metric in GENERATION.items():
            difference_SR = against_base(found, metric, v)
            n = len(difference_SR)
            compared = v != BASE and n
            row += [metric.shown(mean_interval(difference_SR)) if compared else ""]
            row += [f"{p[name][v]:.3f}" if compared else ""]
        row += [f"{n}, {n_diverged} diverged" if n_diverged else str(n)]
        rows.append([*row, *(ranged(ranks[name].get(v)) for name in GENERATION)])
    head = ["variant", "FID, times base's", "p", "TSTR, points above base's", "p", "sets"]
    return ["### Generated series", "", *table([*head, "FID rank", "TSTR rank"], rows)]


def ranked(found: Found, name: str) -> dict[str, Interval]:
    """Mean ranks, 1 the best, of the variants that have been run on every set that base has."""
    metric = GENERATION[name]
    n = len(values(found, metric, [BASE])[0])
    whole = [v for v in VARIANTS if n and len(values(found, metric, [BASE, v])[0]) == n]
    if not whole:
        return {}
    return dict(zip(whole, mean_ranks(-metric.sign * values(found, metric, whole)[1]), strict=True))


def ranged(mean: Interval | None) -> str:
    """A mean and its interval."""
    if mean is None:
        return ""
    value, low, high = (f"{end:.1f}" for end in mean)
    return f"{value} ({low} to {high})"


def verdicts(found: Found) -> list[str]:
    """What is decided, and what is not."""
    out = []
    for name, metric in GENERATION.items():
        p = tested(found, metric)
        mean = {v: metric.sign * float(against_base(found, metric, v).mean()) for v in p}
        groups = {
            "better than base": [v for v in p if p[v] < LEVEL and mean[v] > 0],
            "worse than base": [v for v in p if p[v] < LEVEL and mean[v] < 0],
            "undecided": [v for v in p if p[v] >= LEVEL],
        }
        said = "; ".join(f"{what}: {', '.join(them) or 'none'}" for what, them in groups.items())
        out += [f"- {name}: {said}." if p else f"- {name}: nothing to compare yet."]
    return [f"Decided at Holm's p < {LEVEL}:", "", *out, ""]


def beside_peer(found: Found) -> list[str]:
    """Base and the preset with timevqvae's sizes and rules: mean ranks and mean TSTR."""
    pair, ranks, rows = [BASE, PEER], ranked(found, "FID"), []
    sets, tstr_SRV = values(found, GENERATION["TSTR"], pair)
    if not sets:
        return []
    if PEER in ranks:
        whole = list(ranks)
        fid_SRV = values(found, GENERATION["FID"], whole)[1]
        difference = rank_difference(fid_SRV, whole.index(BASE), whole.index(PEER))
        each = [ranged(mean) for mean in (ranks[BASE], ranks[PEER], difference)]
        rows.append([f"mean FID rank among {len(whole)}", *each])
    base_SR, peer_SR = 100 * tstr_SRV[..., 0], 100 * tstr_SRV[..., 1]
    each = [ranged(mean_interval(it)) for it in (base_SR, peer_SR, base_SR - peer_SR)]
    rows.append(["mean TSTR, %", *each])
    head = [f"over {len(sets)} sets", BASE, PEER, "difference"]
    return table(head, rows)


def representations(found: Found) -> list[str]:
    """Everything else of every variant beside base's."""
    rows = []
    for v in VARIANTS:
        if v != BASE:
            differences = {name: against_base(found, m, v) for name, m in REPRESENTATION.items()}
            shown = (
                REPRESENTATION[name].shown(mean_interval(d)) if len(d) else ""
                for name, d in differences.items()
            )
            rows.append([v, *shown])
    title = ["### Representations, and what they cost", ""]
    return [*title, *table(["variant", *REPRESENTATION], rows), REPRESENTATION_NOTE, ""]


REPRESENTATION_NOTE = """Times base's: reconstruction error (mean squared, of test series),
perplexity of the codes of each band, seconds of training. Percentage points above base's: test
accuracy of the probes. Nothing here is corrected for multiple comparisons: read it as a
description. Seconds are of one thread beside another worker."""


def each_set(found: Found) -> list[str]:
    """FID and TSTR of every variant on every set."""
    out = []
    for title, key, floor, scale in (
        ("FID", "fid", "fid_floor", 1),
        ("TSTR, %", "tstr", "trtr", 100),
    ):
        rows = [[v, *(scored(found, s, v, key, scale) for s in SETS)] for v in VARIANTS]
        rows += [["real series", *(scored(found, s, BASE, floor, scale) for s in SETS)]]
        out += [f"### {title}, each set", "", *table(["variant", *SETS], rows)]
    return [*out, "Means over seeds ± standard deviations.", ""]


def scored(found: Found, s: str, v: str, key: str, scale: float) -> str:
    """Mean ± standard deviation over the seeds there are, and how many of them diverged."""
    rows = [found[cell] for seed in SEEDS if (cell := Cell(s, v, seed)) in found]
    numbers = [scale * row[key] for row in rows if "error" not in row]
    failed = f"{len(rows) - len(numbers)} diverged" if len(numbers) < len(rows) else ""
    if not numbers:
        return failed
    spread = f" ± {np.std(numbers, ddof=1):.2g}" if len(set(numbers)) > 1 else ""
    return f"{np.mean(numbers):.3g}{spread} {failed}".strip()


def plan(found: Found, budget: Budget) -> list[str]:
    """What has been run, where, and on what."""
    machines = [row["machine"] for row in found.values()]
    hours = sum(row.get("total_seconds", 0) for row in found.values()) / 3600
    n_diverged = sum("error" in row for row in found.values())
    facts = {
        "runs": f"{len(found)} of {len(cells())}, {n_diverged} diverged",
        "budget": f"{budget.steps[0]} steps of stage 1, {budget.steps[1]} of each prior, "
        f"batches of {budget.batch_size}",
        "hours of one thread": f"{hours:.1f}",
        "machine": "; ".join(sorted({f"{m['cpu']}, torch {m['torch']}" for m in machines})),
        "dates": ", ".join(sorted({m["date"] for m in machines})),
        "commits": ", ".join(sorted({m["commit"] for m in machines})),
    }
    sizes = {cell.set: row for cell, row in found.items()}
    rows = [
        [s, f"{C} × {L}", f"{sizes[s]['n_train']} / {sizes[s]['n_test']}", SETS[s]]
        for s in SETS
        if s in sizes
        for C, L in [sizes[s]["shape"]]
    ]
    sets = table(["set", "channels × length", "train / test", "what"], rows)
    changes = [[v, f"`{change(v)}`"] for v in VARIANTS if v != BASE]
    variants = table(["variant", "what differs from base"], changes)
    return [*(f"- {name}: {fact}" for name, fact in facts.items()), "", *sets, *variants]


def change(v: str) -> str:
    """What a variant changes, as one writes it."""
    changes = VARIANTS[v].fit | VARIANTS[v].preset
    if "ssl" in changes:
        inner = ", ".join(f"{key}={value!r}" for key, value in changes["ssl"].items())
        return f"ssl=SslConfig({inner})"
    return ", ".join(f"{key}={value!r}" for key, value in changes.items())


def load(path: Path, budget: Budget) -> Found:
    """The runs there are."""
    # a worker may be at it: behind the last line end is half a row
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return finished([json.loads(line) for line in lines], budget)


def page(path: Path = RESULTS) -> list[str]:
    """docs/study.md between its marks."""
    budget = Budget()
    found = load(path, budget)
    if not found:
        return NOTHING
    title = [f"### {BASE} beside {PEER}", ""]
    parts = [plan(found, budget), verdicts(found), generation(found), title, beside_peer(found)]
    return [line for part in [*parts, representations(found), each_set(found)] for line in part]


def summary(path: Path = RESULTS) -> list[str]:
    """For the README: base beside the preset with timevqvae's sizes and rules."""
    lines = beside_peer(load(path, Budget()))
    title = f"**Presets {BASE} and {PEER}**, the same short training ([all of it](docs/study.md))"
    return [title, "", *lines] if lines else []
