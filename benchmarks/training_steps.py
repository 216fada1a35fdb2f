"""A training step of each stage beside the official timevqvae's, at the same sizes.

    python benchmarks/training_steps.py [--batch 128] [--rounds 15]
    python benchmarks/training_steps.py --device cuda --steps 20 [--compile]

Preset timevqvae on series of length 128 with 3 classes: forward, backward, clipping and AdamW.
Stage 2 learns both bands; the official code encodes the series in every step, tsgen once. Where
`timevqvae` is not importable, only tsgen is timed. On a GPU, --steps are taken before it is waited
for, as in training, and tsgen is also timed in bfloat16.
"""

import argparse
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import torch
from against_timevqvae import CLASSES, LENGTH, OFFICIAL, official
from torch import Tensor, nn

from tsgen.data import Labels
from tsgen.fitting import model_config, train_config
from tsgen.log import Log
from tsgen.measure import waiting
from tsgen.run import Run
from tsgen.synthetic import cbf
from tsgen.train import Trainer

Step = Callable[[], object]


def official_steps(x: Tensor, y: Tensor, device: str) -> dict[str, Step]:
    """One step of each stage of timevqvae 1.0.1, with PyTorch's own AdamW."""
    x, y, maskgit = x.to(device), y.to(device), official(large=False).to(device)
    from timevqvae.vqvae import VQVAE

    vqvae = VQVAE(in_channels=1, input_length=LENGTH).to(device)

    def stage(module: nn.Module, loss: Callable[[], Tensor]) -> Step:
        weights = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-3)

        def step() -> None:
            module.train()
            optimizer.zero_grad()
            loss().backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()

        return step

    def reconstruction() -> Tensor:
        out = vqvae(x)
        return sum(out.recons_loss.values()) + sum(v["loss"] for v in out.vq_losses.values())

    def prediction() -> Tensor:
        return maskgit(x, y[:, None]).total_mask_prediction_loss

    return {"stage 1": stage(vqvae, reconstruction), "stage 2": stage(maskgit, prediction)}


def our_steps(x: Tensor, y: Tensor, **how: Any) -> dict[str, Step]:
    """The same through tsgen's own training loop. how: device, autocast, compile of a fit."""
    labels = Labels(tuple(str(c) for c in range(CLASSES)))
    config = model_config(x.numpy(), labels, "timevqvae", {})
    training = train_config({"batch_size": len(x), "steps": 10**6, "validation": 0.0} | how)
    run = Run(x.numpy(), y.numpy(), labels, config, training, None)

    def trainer(stage: object) -> Trainer:
        made = Trainer(stage, training, Log(None), lambda _: None)  # type: ignore[arg-type]
        made.progress.total = 10**6
        return made

    tokenizer = trainer(run.tokenizer_stage())
    tokenizer.step()  # k-means, once
    bands = [trainer(run.prior_stage(band)) for band in range(2)]
    return {"stage 1": tokenizer.step, "stage 2": lambda: [band.step() for band in bands]}


def rivals_of(x: Tensor, y: Tensor, device: str, compile: bool) -> dict[str, dict[str, Step]]:
    """What takes turns, by name and stage."""
    variants: dict[str, dict[str, Any]] = {"tsgen": {}}
    if device != "cpu":
        variants["tsgen, bfloat16"] = {"autocast": "bfloat16"}
    if compile:
        variants |= {f"{name}, compiled": how | {"compile": True} for name, how in variants.items()}
    rivals = {name: our_steps(x, y, device=device, **how) for name, how in variants.items()}
    if importlib.util.find_spec("timevqvae"):
        warnings.filterwarnings("ignore", module="timevqvae")
        rivals[OFFICIAL] = official_steps(x, y, device)
    return rivals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=1, help="a round")
    parser.add_argument("--compile", action="store_true", help="also by torch.compile")
    args = parser.parse_args()
    series, classes = cbf(args.batch, seed=0)
    x, y = torch.from_numpy(series), torch.from_numpy(classes.astype(np.int64))
    rivals = rivals_of(x, y, args.device, args.compile)
    machine = measure.machine()
    if args.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    rows = {}
    for stage in ("stage 1", "stage 2"):
        turns = {name: repeated(steps[stage], args.steps) for name, steps in rivals.items()}
        seconds = measure.interleaved(turns, args.rounds, waiting(args.device))
        seconds = {name: [s / args.steps for s in times] for name, times in seconds.items()}
        row = {name: measure.summary(times) for name, times in seconds.items()}
        for name, times in seconds.items():
            row[name]["ratio"] = measure.ratio(times, seconds["tsgen"])
            ms = 1e3 * row[name]["p50_s"]
            print(f"{stage}, {name}: {ms:.2f} ms, {row[name]['ratio']:.2f} times")
        rows[f"{stage}, batch {args.batch}"] = {"rivals": row, "machine": machine}
    measure.save("training_steps" if args.device == "cpu" else "gpu_training_steps", rows)


def repeated(step: Step, n: int) -> Step:
    return lambda: [step() for _ in range(n)]


if __name__ == "__main__":
    main()
