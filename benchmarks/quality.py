"""Quality of series from models trained with the defaults, on real data.

    python benchmarks/quality.py --data ../shared/data/ucr [NAME ...]

Every set is a folder with NAME_TRAIN and NAME_TEST files, or one .npz. For each: fit on the
training part; FID of as many generated series as there are training ones against the test part,
beside the same of the training series (the floor); and ridge accuracy on the test part when trained
on generated series (TSTR) and on real ones (TRTR), classes in the training part's proportions.
One row a set in results/quality.json, written as soon as it is known.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np

import tsgen
from tsgen.formats import Collection, read
from tsgen.metrics import evaluate

SETS = ("GunPoint", "ECG5000", "SyntheticControl", "TwoPatterns", "BasicMotions")
GENERATED = 1000  # series, at least


def score(
    model: tsgen.Model, train: Collection, test: Collection, seeds: int
) -> dict[str, list[float]]:
    """FID, its floor, TSTR and TRTR for several seeds of the sampler and the features."""
    rows: dict[str, list[float]] = {"fid": [], "fid_floor": [], "tstr": [], "trtr": []}
    labels = np.resize(np.asarray(train.y), max(GENERATED, len(train.X)))
    for seed in range(seeds):
        x = model.generate(len(labels), label=labels, seed=seed)
        scores = evaluate(x, labels, train.X, train.y, test.X, test.y, seed=seed)
        rows["fid"].append(scores["fid"].value)
        rows["fid_floor"].append(scores["fid"].floor)
        rows["tstr"].append(scores["tstr"].value)
        rows["trtr"].append(scores["tstr"].floor)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(SETS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ucr"))
    parser.add_argument("--preset", default="base")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--remark", default="", help="what a reader of the minutes has to know")
    args = parser.parse_args()
    for name in args.names:
        train = read(args.data / name, split="train")
        test = read(args.data / name, split="test")
        start, cpu_start = time.perf_counter(), time.process_time()
        model = tsgen.fit(train.X, train.y, preset=args.preset, device="cpu")
        minutes = (time.perf_counter() - start) / 60
        cpu_minutes = (time.process_time() - cpu_start) / 60
        rows = score(model, train, test, args.seeds)
        result: dict[str, Any] = {
            "minutes": minutes,
            "cpu_minutes": cpu_minutes,
            "remark": args.remark,
            "n_train": len(train.X),
            "n_test": len(test.X),
            "shape": list(train.X.shape[1:]),
            "machine": measure.machine(),
            **rows,
        }
        medians = {key: float(np.median(values)) for key, values in rows.items()}
        print(f"{name}: {minutes:.1f} min, {medians}", flush=True)
        measure.save(
            "quality" if args.preset == "base" else f"quality_{args.preset}", {name: result}
        )


if __name__ == "__main__":
    main()
