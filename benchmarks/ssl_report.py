"""The tables of docs/ssl.md, from results/ssl_steps.json and results/ssl_quality.json."""

import dataclasses
import json
import statistics
from typing import Any

import numpy as np
from study_compare import ranged
from study_stats import mean_interval

from tsgen.config import SslConfig

NOTE = """Of the test part, after {steps:,} steps of stage 1 alone, everything else equal: means
over seeds, ± standard deviation. Probe: ridge on the mean over tokens, before and after
quantisation; above none: percentage points of the probe of latents, seed by seed, with Student's
95 % interval; error: mean squared, of the reconstruction."""


def page(text: str, steps: dict[str, Any], quality: dict[str, Any]) -> str:
    """docs/ssl.md with what was measured between its marks."""
    marks = "<!-- ssl results -->", "<!-- /ssl results -->"
    before, rest = text.split(marks[0])
    after = rest.split(marks[1])[1]
    body = "\n".join(["", *costs(steps), *qualities(quality)])
    return f"{before}{marks[0]}{body}{marks[1]}{after}"


def costs(steps: dict[str, Any]) -> list[str]:
    """What a step costs."""
    lines = []
    for title, result in steps.items():
        machine = result["machine"]
        lines += [f"**A step of stage 1**, {title}, preset base, length 128, rivals in turn", ""]
        lines += ["| | median | of the plain step |", "|---|---|---|"]
        for name, row in result["rivals"].items():
            lines.append(f"| {name} | {1e3 * row['p50_s']:.1f} ms | {row['ratio']:.2f} × |")
        where = f"{machine['cpu']}, threads: {machine['threads']}, torch {machine['torch']}"
        lines += ["", f"{where}, {machine['date']}.", ""]
    return lines


def qualities(quality: dict[str, Any]) -> list[str]:
    """What self-supervision does, set by set."""
    if not quality:
        return []
    lines = ["**Collapse, probes and reconstruction**", ""]
    head = "set | `ssl=` | seeds | feature std | rank | probe, latents | above none | codes | error"
    lines += [f"| {head} |", "|---" * 9 + "|"]
    steps = {row["steps"] for row in quality.values()}
    if len(steps) > 1:
        raise ValueError(f"ssl_quality: wanted one number of steps, got {sorted(steps)}")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in quality.values():
        groups.setdefault((row["set"], told(row["ssl"])), []).append(row)
    for place, rows in groups.items():
        if len({row["seed"] for row in rows}) < len(rows):
            raise ValueError(f"ssl_quality: wanted one row of each seed of {place}")
    for (name, ssl), rows in sorted(groups.items(), key=lambda it: (it[0][0], it[0][1] != "none")):
        cells = [name, ssl, str(len(rows)), mean(rows, "feature_std", 3)]
        cells += [mean(rows, "feature_rank", 0), mean(rows, "probe_latents", 1, 100) + " %"]
        cells += [above(rows, groups.get((name, "none"), [])) if ssl != "none" else ""]
        cells += [mean(rows, "probe_codes", 1, 100) + " %"]
        lines.append(f"| {' | '.join([*cells, mean(rows, 'reconstruction', 4)])} |")
    return [*lines, "", *NOTE.format(steps=steps.pop()).splitlines(), ""]


def told(ssl: dict[str, Any] | None) -> str:
    """An objective, and what of its settings is not the default."""
    if ssl is None:
        return "none"
    usual = json.loads(json.dumps(dataclasses.asdict(SslConfig(ssl["objective"]))))
    changed = [f", {key}={value!r}" for key, value in ssl.items() if value != usual[key]]
    return f"`{ssl['objective']}`{''.join(changed)}"


def mean(rows: list[dict[str, Any]], key: str, digits: int, scale: float = 1) -> str:
    """Over seeds, ± their standard deviation."""
    values = [scale * row[key] for row in rows]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def above(rows: list[dict[str, Any]], plain: list[dict[str, Any]]) -> str:
    """How far the probe of latents is above that of plain runs of the same seeds, in points."""
    other = {row["seed"]: row["probe_latents"] for row in plain}
    both = [row for row in rows if row["seed"] in other]
    points_S1 = np.array([[100 * (row["probe_latents"] - other[row["seed"]])] for row in both])
    return ranged(mean_interval(points_S1), "+.2f") if both else ""
