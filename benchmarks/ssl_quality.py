"""What self-supervision does to the encoder: collapse, linear probe, reconstruction.

    python benchmarks/ssl_quality.py --data ../shared/data/ucr [NAME ...]

Stage 1 alone, once plain and once with each objective, everything else equal. Then, of the test
part: the standard deviation and the effective rank of the pooled latents, the mean squared error of
the reconstruction, and the accuracy of a ridge classifier, trained on the training part, on the
mean over the tokens of each band, before and after quantisation. One row a set, objective and seed
in results/ssl_quality.json, written as soon as it is known.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import measure
import numpy as np
import torch
from torch import Tensor

from tsgen.config import OBJECTIVES, SslConfig
from tsgen.data import Labels
from tsgen.fitting import model_config, train_config
from tsgen.formats import Collection, read
from tsgen.log import Log
from tsgen.rocket import ridge_predict
from tsgen.run import Run
from tsgen.ssl.collapse import effective_rank, feature_std
from tsgen.ssl.heads import pooled, unit
from tsgen.tokenizer import Tokenizer
from tsgen.train import Trainer

SETS = ("GunPoint", "ECG5000")


def trained(train: Collection, ssl: SslConfig | None, steps: int, seed: int) -> Run:
    """A run whose stage 1 has ended."""
    labels = Labels.fit(train.y)
    # without validation all have the same series and the same number of steps
    settings = {"steps": steps, "seed": seed, "validation": 0.0, "device": "cpu", "ssl": ssl}
    model = model_config(train.X, labels, "base", {})
    classes = labels.encode(train.y, len(train.X))
    run = Run(train.X, classes, labels, model, train_config(settings), None)
    Trainer(run.tokenizer_stage(), run.config, Log(None), lambda _: None).run(shown=False)
    run.network.eval()
    return run


@torch.no_grad()
def features(tokenizer: Tokenizer, x_NCL: Tensor) -> dict[str, Tensor]:
    """Of every series, by what they are made of."""
    parts: dict[str, list[Tensor]] = {"latents": [], "codes": [], "error": []}
    for x_BCL in x_NCL.split(256):
        out = tokenizer(x_BCL)
        parts["latents"].append(pooled(unit(out.latents)))
        parts["codes"].append(pooled(out.quantised))
        parts["error"].append((out.x_BCL - x_BCL).square().mean((1, 2)))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def judged(run: Run, train: Collection, test: Collection) -> dict[str, float]:
    """Numbers of the test part."""
    tokenizer = run.network.tokenizer
    a, b = (
        features(tokenizer, torch.from_numpy(run.scaler.apply(part.X))) for part in (train, test)
    )
    row = {
        "feature_std": feature_std(b["latents"]),
        "feature_rank": effective_rank(b["latents"]),
        "reconstruction": float(b["error"].mean()),
    }
    for name in ("latents", "codes"):
        told = ridge_predict(a[name].double().numpy(), train.y, b[name].double().numpy())
        row[f"probe_{name}"] = float((told == np.asarray(test.y)).mean())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(SETS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ucr"))
    parser.add_argument("--objectives", nargs="+", default=["none", *OBJECTIVES])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--width", type=int, help="of the projector (the default)")
    parser.add_argument("--augmentations", nargs="+", help="(the default)")
    parser.add_argument("--weight", type=float, help="of the objective (its own)")
    parser.add_argument("--on", choices=("latents", "codes"), help="(the default)")
    args = parser.parse_args()
    given = {"projector_width": args.width, "weight": args.weight, "on": args.on}
    given |= {"augmentations": args.augmentations and tuple(args.augmentations)}
    given = {key: value for key, value in given.items() if value is not None}
    machine = measure.machine()  # of now: commits made later are not what runs
    for name in args.names:
        train, test = (read(args.data / name, split=part) for part in ("train", "test"))
        for seed in args.seeds:
            for objective in args.objectives:
                ssl = None if objective == "none" else SslConfig(objective, **given)
                began = time.process_time()
                run = trained(train, ssl, args.steps, seed)
                row: dict[str, object] = {"steps": args.steps, "seed": seed, "set": name}
                row |= {"cpu_minutes": (time.process_time() - began) / 60}
                row |= {"ssl": ssl and dataclasses.asdict(ssl), **judged(run, train, test)}
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
                changed = given.values() if ssl else ()
                key = ", ".join([name, objective, f"seed {seed}", *map(str, changed)])
                measure.save("ssl_quality", {key: row | {"machine": machine}})


if __name__ == "__main__":
    main()
