"""Train the models that come with the package, on its own generators.

    python benchmarks/train_bundled.py [NAME ...]

Each goes to tsgen/bundled/<name>/. cbf is also scored on real data where it is found: ridge on
ROCKET features, trained on 1,000 generated series, tested on the UCR CBF test set.
"""

import argparse
import shutil
import time
from pathlib import Path

import measure
import numpy as np

import tsgen
from tsgen.formats import read
from tsgen.metrics import trtr, tstr
from tsgen.synthetic import GENERATORS

ROOT = Path(__file__).parents[1]
BUNDLED = ROOT / "tsgen" / "bundled"
UCR_CBF = ROOT.parent / "shared" / "data" / "ucr" / "CBF"
SERIES = 6000
STEPS = {"cbf": (2000, 2500), "synthetic_control": (2000, 2500), "ecg": (1200, 1500)}
LARGEST = 4_000_000  # bytes of one model


def train(name: str) -> tsgen.Model:
    """One model, with the defaults but for the number of steps."""
    generator = GENERATORS[name]
    X, y = generator.make(SERIES, seed=1)
    names = np.array(generator.classes)[y]
    start = time.perf_counter()
    model = tsgen.fit(X, names, steps=STEPS[name], device="cpu")
    model.save(BUNDLED / name, half=True)
    size = sum(file.stat().st_size for file in (BUNDLED / name).iterdir())
    minutes = (time.perf_counter() - start) / 60
    print(f"{name}: {minutes:.1f} min, {size / 1e6:.2f} MB")
    if size > LARGEST:
        raise SystemExit(f"{name}: wanted at most {LARGEST} bytes, got {size}")
    row = {"minutes": minutes, "bytes": size, "series": SERIES, "machine": measure.machine()}
    measure.save("bundled", {name: row})
    return tsgen.load(BUNDLED / name)


def score_cbf(model: tsgen.Model) -> None:
    """Accuracy on the real test set of classifiers trained on generated and on real series."""
    real, test = read(UCR_CBF, split="train"), read(UCR_CBF, split="test")
    y = np.arange(1000) % 3
    x = model.generate(1000, label=np.array(GENERATORS["cbf"].classes)[y], seed=0)
    # the archive numbers the classes 1, 2, 3 in the generator's order
    generated = tstr(x, y + 1, test.X, test.y)
    beside = trtr(real.X, real.y, test.X, test.y)
    print(f"CBF: trained on generated {generated:.4f}, on the {len(real.X)} real ones {beside:.4f}")
    row = {"tstr": generated, "trtr": beside, "machine": measure.machine()}
    measure.save("bundled_cbf", {"ridge accuracy on the UCR CBF test set": row})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(STEPS))
    parser.add_argument("--score", action="store_true", help="score what is there, train nothing")
    args = parser.parse_args()
    for name in args.names:
        if not args.score:
            shutil.rmtree(BUNDLED / name, ignore_errors=True)
        model = tsgen.load(BUNDLED / name) if args.score else train(name)
        if name == "cbf" and UCR_CBF.is_dir():
            score_cbf(model)


if __name__ == "__main__":
    main()
