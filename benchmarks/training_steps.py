"""A training step of each stage beside the official timevqvae's, at the same sizes.

    python benchmarks/training_steps.py [--batch 128] [--rounds 15]

Preset timevqvae on series of length 128 with 3 classes: forward, backward, clipping and AdamW.
Stage 2 learns both bands; the official code encodes the series in every step, tsgen once. Where
`timevqvae` is not importable, only tsgen is timed.
"""

import argparse
import importlib.util
import warnings
from collections.abc import Callable

import measure
import numpy as np
import torch
from against_timevqvae import CLASSES, LENGTH, OFFICIAL, official
from torch import Tensor, nn

from tsgen.data import Labels
from tsgen.fitting import model_config, train_config
from tsgen.log import Log
from tsgen.run import Run
from tsgen.synthetic import cbf
from tsgen.train import Trainer

Step = Callable[[], object]


def official_steps(x: Tensor, y: Tensor) -> dict[str, Step]:
    """One step of each stage of timevqvae 1.0.1, with PyTorch's own AdamW."""
    maskgit = official(large=False)
    from timevqvae.vqvae import VQVAE

    vqvae = VQVAE(in_channels=1, input_length=LENGTH)

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


def our_steps(x: Tensor, y: Tensor) -> dict[str, Step]:
    """The same through tsgen's own training loop."""
    labels = Labels(tuple(str(c) for c in range(CLASSES)))
    config = model_config(x.numpy(), labels, "timevqvae", {})
    training = train_config({"batch_size": len(x), "steps": 10**6, "validation": 0.0})
    run = Run(x.numpy(), y.numpy(), labels, config, training, None)

    def trainer(stage: object) -> Trainer:
        made = Trainer(stage, training, Log(None), lambda _: None)  # type: ignore[arg-type]
        made.progress.total = 10**6
        return made

    tokenizer = trainer(run.tokenizer_stage())
    tokenizer.step()  # k-means, once
    bands = [trainer(run.prior_stage(band)) for band in range(2)]
    return {"stage 1": tokenizer.step, "stage 2": lambda: [band.step() for band in bands]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    series, classes = cbf(args.batch, seed=0)
    x, y = torch.from_numpy(series), torch.from_numpy(classes.astype(np.int64))
    rivals = {"tsgen": our_steps(x, y)}
    if importlib.util.find_spec("timevqvae"):
        warnings.filterwarnings("ignore", module="timevqvae")
        rivals[OFFICIAL] = official_steps(x, y)
    rows = {}
    for stage in ("stage 1", "stage 2"):
        turns = {name: steps[stage] for name, steps in rivals.items()}
        seconds = measure.interleaved(turns, args.rounds)
        row = {name: measure.summary(times) for name, times in seconds.items()}
        for name, times in seconds.items():
            row[name]["ratio"] = measure.ratio(times, seconds["tsgen"])
            print(f"{stage}, {name}: {row[name]['p50_s']:.3f} s, {row[name]['ratio']:.1f} times")
        rows[f"{stage}, batch {args.batch}"] = {"rivals": row, "machine": measure.machine()}
    measure.save("training_steps", rows)


if __name__ == "__main__":
    main()
