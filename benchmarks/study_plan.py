"""What the study compares, on what, with what budget; and the results file that workers share.

Every variant is preset "base" with one factor changed, but for the last, which is another preset.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from tsgen.config import PRESETS, Preset, PriorConfig, SslConfig
from tsgen.fitting import model_config, train_config

RESULTS = Path(__file__).parent / "results" / "study.jsonl"

# Every labelled set of equal lengths at hand, so that none was picked for its outcome.
SETS = {
    "CBF": "shapes in noise, made by a formula; 30 training series",
    "GunPoint": "smooth movement",
    "ItalyPowerDemand": "days of 24 hours, the shortest",
    "TwoLeadECG": "heartbeats; 23 training series, the fewest",
    "SyntheticControl": "trends, shifts and cycles in noise",
    "Trace": "transients",
    "ShapesAll": "outlines, smooth; 60 classes",
    "ACSF1": "power use of devices, spiky, the longest",
    "TwoPatterns": "sharp events in noise, told apart by their order",
    "ECG5000": "heartbeats; classes from 2 to 292 series",
    "Crop": "satellite values, not normalised; 24 classes",
    "BasicMotions": "movement, 6 channels",
}
# Whose test scores were looked at while base was made: the first three chose its settings.
SEEN = ("TwoPatterns", "ECG5000", "GunPoint", "CBF", "SyntheticControl", "BasicMotions")
SEEDS = (0, 1, 2)
BASE = "base"
# Preset "base" as it is studied: rows stay what they are when the preset takes over what won.
STUDIED = Preset(
    tokenizer={"restart_below": 0.05, "n_resblocks": 0},
    priors=(PriorConfig(), PriorConfig(n_layers=2, head_dim=32)),
)


@dataclass(frozen=True)
class Variant:
    """One factor's other setting: arguments of `tsgen.fit`, or fields of `tsgen.config.Preset`.

    All of them plain values; those of "ssl" are of `tsgen.config.SslConfig`.
    """

    fit: dict[str, Any] = field(default_factory=dict)
    preset: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    BASE: Variant(),
    "Barlow Twins": Variant({"ssl": {"objective": "barlow_twins"}}),
    "Barlow Twins, codes": Variant({"ssl": {"objective": "barlow_twins", "on": "codes"}}),
    "VICReg": Variant({"ssl": {"objective": "vicreg"}}),
    "VIbCReg": Variant({"ssl": {"objective": "vibcreg"}}),
    "BYOL": Variant({"ssl": {"objective": "byol"}}),
    "SimSiam": Variant({"ssl": {"objective": "simsiam"}}),
    "orthogonal codes": Variant({"orthogonal": 10.0}),
    "cosine codes": Variant({"codebook": "cosine"}),
    "FSQ": Variant({"codebook": "fsq"}),
    "residual codes": Variant({"codebook": "residual"}),
    "rotation gradient": Variant({"gradient": "rotation"}),
    "flat alignment": Variant(preset={"band_alignment": "flat"}),
    "mask keeps": Variant(preset={"mask_polarity": "keep"}),
    "one band": Variant({"bands": 1}),
    "residual blocks": Variant(preset={"tokenizer": STUDIED.tokenizer | {"n_resblocks": 2}}),
    "VAE": Variant({"family": "vae"}),
    "timevqvae": Variant({"preset": "timevqvae"}),
}


@dataclass(frozen=True)
class Budget:
    """The same for every run."""

    steps: tuple[int, int] = (800, 700)  # of stage 1, and of the prior of each band
    batch_size: int = 32
    evaluations: int = 10  # a stage; as many as `patience`, so that no stage stops early
    most_train: int = 500  # series; more are drawn from, by a seed of their own
    most_test: int = 1000
    n_generated: int = 1000
    n_kernels: int = 1000  # of the ROCKET features
    subsamples: int = 5  # of generated series, for FID at as many as there are training ones


class Cell(NamedTuple):
    """One run."""

    set: str
    variant: str
    seed: int


def cells(
    sets: Iterable[str] = SETS, variants: Iterable[str] = VARIANTS, seeds: Iterable[int] = SEEDS
) -> list[Cell]:
    """All runs, one seed of everything before the next: what is done early is balanced."""
    return [Cell(s, v, seed) for seed in seeds for s in sets for v in variants]


def preset(variant: Variant) -> Preset:
    """The whole preset that a variant is made from."""
    if "preset" in variant.fit:
        return PRESETS[variant.fit["preset"]]
    return dataclasses.replace(STUDIED, **variant.preset)


def training(cell: Cell, budget: Budget) -> dict[str, Any]:
    """What `tsgen.fit` is told of how to train."""
    ssl = VARIANTS[cell.variant].fit.get("ssl")
    return {
        "steps": budget.steps,
        "batch_size": budget.batch_size,
        "evaluations": budget.evaluations,
        "patience": budget.evaluations,
        "seed": cell.seed,
        "device": "cpu",
        "ssl": SslConfig(**ssl) if ssl else None,
    }


def sizes(variant: Variant) -> dict[str, Any]:
    """What `tsgen.fit` is told of the model beside its preset."""
    return {name: value for name, value in variant.fit.items() if name not in ("preset", "ssl")}


def settings(cell: Cell, budget: Budget) -> dict[str, Any]:
    """What a run is run with, as it reads back from JSON.

    The defaults of training and of models are in it, the latter by the model of one shape of data.
    """
    variant = VARIANTS[cell.variant]
    how = sizes(variant)
    family = how.pop("family", "vq")
    model = model_config(np.zeros((500, 1, 128), np.float32), None, preset(variant), how, family)
    plain = {
        "budget": vars(budget),
        "variant": vars(variant),
        "preset": dataclasses.asdict(preset(variant)),
        "model": model.to_dict(),
        "training": dataclasses.asdict(train_config(training(cell, budget))),
    }
    return dict(json.loads(json.dumps(plain)))


def agree(then: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a row of these settings is one of now's: others do not count.

    Fields that presets, models and training have got since do not matter: as with saved models,
    their defaults leave everything as it was.
    """
    same = ("budget", "variant")
    return all(then[name] == now[name] for name in same) and still(then, now)


def still(then: Any, now: Any) -> bool:
    """Whether all that was there is there, and the same."""
    if isinstance(then, dict) and isinstance(now, dict):
        return all(name in now and still(value, now[name]) for name, value in then.items())
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(map(still, then, now))
    return bool(then == now)


class Ledger:
    """Rows of JSON that several processes append to, each run by one of them at a time.

    A claim is a lock on one byte far behind the end of the file: the kernel gives it back when its
    process ends, however it ends. Such locks are between processes, and lost when the process
    closes the file: a process opens it once.
    """

    FAR = 2**40  # byte

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a+b", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def left(self, wanted: Iterable[Cell], budget: Budget) -> Iterator[Cell]:
        """Runs without a row that nobody else is at, nor will be until the next is asked for."""
        for cell in wanted:
            try:
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self.place(cell))
            except (BlockingIOError, PermissionError):
                continue
            try:
                # read once it is ours: whoever had it may just have finished it
                if cell not in finished(self.rows(), budget):
                    yield cell
            finally:
                fcntl.lockf(self.file, fcntl.LOCK_UN, 1, self.place(cell))

    def place(self, cell: Cell) -> int:
        # two runs of one checksum would only wait for each other
        return self.FAR + 1 + zlib.crc32(repr(tuple(cell)).encode())

    def append(self, row: dict[str, Any]) -> None:
        """Write a whole row, or nothing that `rows` would read."""
        fcntl.lockf(self.file, fcntl.LOCK_EX, 1, self.FAR)
        try:
            written = self.written()
            os.ftruncate(self.file.fileno(), len(written))
            self.file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
            os.fsync(self.file.fileno())
        finally:
            fcntl.lockf(self.file, fcntl.LOCK_UN, 1, self.FAR)

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows."""
        return [json.loads(line) for line in self.written().splitlines()]

    def written(self) -> bytes:
        """The file up to its last whole row: behind it may be half of one."""
        data = os.pread(self.file.fileno(), os.fstat(self.file.fileno()).st_size, 0)
        return data[: data.rfind(b"\n") + 1]


def finished(rows: list[dict[str, Any]], budget: Budget) -> dict[Cell, dict[str, Any]]:
    """The rows that were run with these settings, by run. Raises ValueError for two of one run."""
    found: dict[Cell, dict[str, Any]] = {}
    wanted = functools.cache(lambda variant, seed: settings(Cell("", variant, seed), budget))
    for row in rows:
        cell = Cell(row["set"], row["variant"], row["seed"])
        known = cell.variant in VARIANTS and agree(row["settings"], wanted(cell.variant, cell.seed))
        if known and cell in found:
            raise ValueError(f"study: wanted one row of {cell}, got two")
        if known:
            found[cell] = row
    return found
