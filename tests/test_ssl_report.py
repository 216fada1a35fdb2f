"""benchmarks/ssl_report.py: rows of several seeds become one line, and nothing else does."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from tsgen.config import SslConfig

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import ssl_report


def rows(*given, name="GunPoint"):
    """Rows as results/ssl_quality.json has them, of (ssl, seed, probe of latents)."""
    numbers = {"feature_std": 0.4, "feature_rank": 20, "probe_codes": 0.5, "reconstruction": 0.01}
    plain = [
        {"set": name, "steps": 2000, "seed": seed, "probe_latents": probe, **numbers}
        | {"ssl": ssl and json.loads(json.dumps(dataclasses.asdict(ssl)))}
        for ssl, seed, probe in given
    ]
    return {f"{name} {i}": row for i, row in enumerate(plain)}


def lines(quality):
    return [line for line in ssl_report.qualities(quality) if line.startswith("| GunPoint")]


def test_means_over_seeds():
    plain, taught = lines(rows((SslConfig("byol"), 0, 0.9), (None, 0, 0.8), (None, 1, 0.6)))
    assert plain.startswith("| GunPoint | none | 2 | 0.400 ± 0.000 |")
    assert "| 70.0 ± 14.1 % |" in plain
    assert taught.startswith("| GunPoint | `byol` | 1 | 0.400 | 20 | 90.0 % |")


def test_above_plain_runs_of_the_same_seeds():
    """With an interval from six seeds on, as elsewhere; other seeds do not count."""
    taught = [(SslConfig("byol"), seed, 0.8 + 0.01 * (seed % 2)) for seed in range(6)]
    plain = [(None, seed, 0.7) for seed in range(7)]
    without, above = lines(rows(*taught, *plain))
    assert "| 70.0 ± 0.0 % |  | 50.0" in without
    assert "| +10.50 (+9.93 to +11.07) |" in above
    alone = ssl_report.qualities(rows(*taught, name="ECG5000") | rows(*plain))
    assert "|  |" in next(line for line in alone if line.startswith("| ECG5000 | `byol`"))
    few = lines(rows(taught[0], taught[1], (None, 0, 0.7), (None, 2, 0.1)))[1]
    assert "| +10.00 |" in few
    assert "|  |" in lines(rows(taught[0], (None, 1, 0.7)))[1]


def test_other_settings_are_not_other_seeds():
    wide = SslConfig("byol", projector_width=512, augmentations=("slope",))
    usual, other = lines(rows((SslConfig("byol"), 0, 0.9), (wide, 0, 0.1)))
    assert "`byol` |" in usual
    assert "`byol`, projector_width=512, augmentations=['slope'] |" in other


def test_a_seed_counts_once():
    with pytest.raises(ValueError, match="wanted one row of each seed of"):
        lines(rows((None, 0, 0.9), (None, 0, 0.9)))


def test_one_number_of_steps():
    quality = rows((None, 0, 0.9), (None, 1, 0.9))
    quality["GunPoint 1"]["steps"] = 100
    with pytest.raises(ValueError, match=r"wanted one number of steps, got \[100, 2000\]"):
        lines(quality)
