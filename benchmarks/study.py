"""Train and score every variant on every set with every seed: one JSON line a finished run.

    OMP_NUM_THREADS=1 nohup python benchmarks/study.py --data FOLDER &     # once a core

Killed and started again at any time it goes on with the first run that has no line and that no
other worker is at. What is run, and with what budget, is in study_plan.py.
"""

import argparse
import dataclasses
import hashlib
import json
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import measure
import numpy as np
import study_plan
import torch
from numpy.typing import NDArray
from study_plan import RESULTS, SEEDS, SETS, VARIANTS, Budget, Cell, Ledger, cells, finished

import tsgen
from tsgen import formats, metrics, probes
from tsgen.errors import ArgumentError, RunError
from tsgen.rocket import RocketFeatures

FEATURES_SEED = 0  # of features and of what is drawn from a set: the same for all runs

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Data:
    """The series and labels of one set that a run gets to see, or is judged by."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array


def read(folder: Path, budget: Budget) -> Data:
    """A set; of a large one the same series for every run."""
    parts: list[Array] = []
    for split, most in (("train", budget.most_train), ("test", budget.most_test)):
        found = formats.read(folder, split=split)
        x, y = np.asarray(found.X), np.asarray(found.y)
        kept = np.sort(np.random.default_rng(FEATURES_SEED).permutation(len(x))[:most])
        parts += [x[kept], y[kept]]
    return Data(*parts)


def trained(data: Data, cell: Cell, budget: Budget) -> tuple[tsgen.Model, dict[str, float]]:
    """The model of a run, and the seconds of each stage."""
    variant = VARIANTS[cell.variant]
    with tempfile.TemporaryDirectory() as folder:
        model = tsgen.fit(
            data.x_train,
            data.y_train,
            preset=study_plan.preset(variant),
            out=folder,
            progress=False,
            **study_plan.training(cell, budget),
            **study_plan.sizes(variant),
        )
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    stages = [json.loads(line) for line in lines]
    return model, {line["stage"]: line["seconds"] for line in stages}  # the last of each


class Features:
    """ROCKET features scaled to a set, of each array once."""

    def __init__(self, data: Data, n_kernels: int) -> None:
        shape = data.x_train.shape[1:]
        self.rocket = RocketFeatures(*shape, n_kernels, FEATURES_SEED, reference=data.x_train)
        self.known: dict[bytes, Array] = {}

    def __call__(self, x: Array) -> Array:
        key = hashlib.sha256(np.ascontiguousarray(x)).digest()
        if key not in self.known:
            self.known[key] = self.rocket(x)
        return self.known[key]


def classes(data: Data, seed: int, budget: Budget) -> Array:
    """Of the series that a run generates: in the proportions of the training part."""
    order = np.random.default_rng(seed).permutation(len(data.y_train))
    return np.resize(data.y_train[order], budget.n_generated)


def generated(model: tsgen.Model, y: Array, seed: int) -> Array:
    """A series of each of these classes.

    Raises RunError also where they are finite, but too large in the units of the data.
    """
    try:
        return model.generate(len(y), label=y, seed=seed, progress=False)
    except ArgumentError as error:
        raise RunError(f"generated series: {error}") from error


def keep(x: Array, cell: Cell, folder: Path) -> None:
    """Write generated series, for other metrics; half precision is enough for them."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "-".join(re.sub(r"\W+", "_", str(part)) for part in cell)
    with np.errstate(over="ignore"):  # of a run that diverged: infinity says enough
        np.save(folder / f"{name}.npy", x.astype(np.float16))


def scores(x: Array, y: Array, data: Data, budget: Budget) -> dict[str, float]:
    """FID and TSTR of generated series, and the same of real ones."""
    features = Features(data, budget.n_kernels)
    parts = (data.x_train, data.y_train, data.x_test, data.y_test)
    equal_n = [
        metrics.evaluate_fid(
            x, x_train=data.x_train, x_test=data.x_test, features=features, seed=subsample
        )
        for subsample in range(budget.subsamples)
    ]
    tstr = metrics.evaluate_tstr(x, y, *parts, features=features)
    return {
        "fid": metrics.fid(data.x_test, x, features=features),
        "fid_train": metrics.fid(data.x_test, data.x_train, features=features),
        "fid_equal_n": float(np.mean([score.value for score in equal_n])),
        "tstr": tstr.value,
        "trtr": tstr.floor,
    }


@torch.no_grad()
def reconstruction(model: tsgen.Model, x: Array) -> float:
    """Mean squared error of test series, of the variance of the training ones."""
    scaled = model.scaler.apply(x)
    if model.config.family == "vae":
        vae = model.network.vae
        again = vae.decode(vae.encode(torch.from_numpy(scaled)).mean_BD).numpy()
    else:
        again = model.scaler.apply(model.decode(model.encode(x)))
    return float(np.square(again - scaled, dtype=np.float64).mean())


def run(cell: Cell, data: Data, budget: Budget, series: Path | None = None) -> dict[str, Any]:
    """The row of a run; that its loss or its series stop being finite is a result, too."""
    row: dict[str, Any] = {**cell._asdict(), "settings": study_plan.settings(cell, budget)}
    row["n_train"], row["n_test"] = len(data.x_train), len(data.x_test)
    row["shape"] = data.x_train.shape[1:]
    try:
        return row | measured(cell, data, budget, series)
    except RunError as error:
        return row | {"error": str(error)}


def measured(cell: Cell, data: Data, budget: Budget, series: Path | None) -> dict[str, Any]:
    """Train, generate, keep what was generated if there is a folder for it, and score."""
    began, cpu = time.perf_counter(), time.process_time()
    model, seconds = trained(data, cell, budget)
    found: dict[str, Any] = {"seconds": seconds, "cpu_seconds": time.process_time() - cpu}
    y = classes(data, cell.seed, budget)
    x = generated(model, y, cell.seed)
    if series:
        keep(x, cell, series)
    found |= scores(x, y, data, budget)
    found["reconstruction"] = reconstruction(model, data.x_test)
    parts = (data.x_train, data.y_train, data.x_test, data.y_test)
    probed = probes.probe(model, *parts, seed=FEATURES_SEED)
    found["probes"] = {name: dataclasses.asdict(it) for name, it in probed.items()}
    found["config"] = model.config.to_dict()
    return found | {"total_seconds": time.perf_counter() - began}


def work(
    ledger: Ledger, wanted: list[Cell], folder: Path, budget: Budget, series: Path | None = None
) -> int:
    """Do what is left, in order; returns how many runs failed for a reason that is no result."""
    n_failed, machine = 0, measure.machine()  # of now: commits made later are not what runs
    for cell in ledger.left(wanted, budget):
        try:
            row = run(cell, read(folder / cell.set, budget), budget, series)
            ledger.append(row | {"machine": machine})
            print(told(row), flush=True)
        except Exception:  # other runs do not depend on it; without a row it will be tried again
            traceback.print_exc()
            print(f"{tuple(cell)}: FAILED", flush=True)
            n_failed += 1
    return n_failed


def told(row: dict[str, Any]) -> str:
    """A line about a run for whoever looks on."""
    place = f"{row['set']}, {row['variant']}, seed {row['seed']}"
    if "error" in row:
        return f"{place}: {row['error']}"
    fid, tstr = f"FID {row['fid']:.3f} ({row['fid_train']:.3f})", f"TSTR {row['tstr']:.1%}"
    return f"{place}: {fid}, {tstr} ({row['trtr']:.1%}), {row['total_seconds']:.0f} s"


def listed(done: dict[Cell, dict[str, Any]], wanted: list[Cell]) -> list[str]:
    """A line about each run that is done, and how much is left."""
    rows = [done[cell] for cell in wanted if cell in done]
    seconds = [row["total_seconds"] for row in rows if "error" not in row]
    hours = (len(wanted) - len(rows)) * sum(seconds) / max(1, len(seconds)) / 3600
    left = f"the rest takes about {hours:.1f} worker hours" if seconds else ""
    return [*map(told, rows), f"{len(rows)} of {len(wanted)} runs are done; {left}".rstrip("; ")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ucr"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--steps", nargs=2, type=int, help="other ones, to try it: not reported")
    parser.add_argument("--series", type=Path, help="folder for what each run generates: .npy")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="say what is done, and run nothing")
    args = parser.parse_args()
    budget = Budget(steps=tuple(args.steps)) if args.steps else Budget()
    wanted = cells(args.sets, args.variants, args.seeds)
    with Ledger(args.results) as ledger:
        if args.list:
            print("\n".join(listed(finished(ledger.rows(), budget), wanted)))
            return 0
        if torch.get_num_threads() != 1:
            parser.error("wanted OMP_NUM_THREADS=1: a worker a core, and the same sums in each")
        return 1 if work(ledger, wanted, args.data, budget, args.series) else 0


if __name__ == "__main__":
    sys.exit(main())
