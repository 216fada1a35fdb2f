"""A step of stage 1 with each self-supervised objective beside the plain one.

    python benchmarks/ssl_steps.py [--batch 64] [--rounds 40] [--widths 128 256 512]

Preset base on series of length 128: forward, backward, clipping and AdamW, in turn. Every objective
at the default width of its projector, and the default objective at others.
"""

import argparse
from collections.abc import Callable

import measure
import numpy as np

from tsgen.config import OBJECTIVES, SslConfig
from tsgen.data import Labels
from tsgen.fitting import model_config, train_config
from tsgen.log import Log
from tsgen.run import Run
from tsgen.synthetic import GENERATORS, cbf
from tsgen.train import Trainer

PLAIN = "plain"


def step_of(ssl: SslConfig | None, batch: int) -> Callable[[], object]:
    """One step of stage 1, after the first, which is k-means."""
    x, classes = cbf(batch, seed=0)
    labels = Labels(tuple(GENERATORS["cbf"].classes))
    settings = {"batch_size": batch, "steps": 10**6, "validation": 0.0, "device": "cpu"}
    training = train_config(settings | {"ssl": ssl})
    model = model_config(x, labels, "base", {})
    run = Run(x, classes.astype(np.int64), labels, model, training, None)
    trainer = Trainer(run.tokenizer_stage(), training, Log(None), lambda _: None)
    trainer.progress.total = 10**6
    trainer.step()
    return trainer.step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--widths", type=int, nargs="*", default=(64, 128, 512, 1024, 4096))
    args = parser.parse_args()
    settings: dict[str, SslConfig | None] = {PLAIN: None}
    settings |= {name: SslConfig(name) for name in OBJECTIVES}
    default = SslConfig()
    for width in args.widths:
        name = f"{default.objective}, width {width}"
        settings[name] = SslConfig(projector_width=width)
    steps = {name: step_of(ssl, args.batch) for name, ssl in settings.items()}
    seconds = measure.interleaved(steps, args.rounds)
    row = {name: measure.summary(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        row[name]["ratio"] = measure.ratio(times, seconds[PLAIN])
        print(f"{name}: {1e3 * row[name]['p50_s']:.2f} ms, {row[name]['ratio']:.2f} times")
    measure.save(
        "ssl_steps", {f"batch {args.batch}": {"rivals": row, "machine": measure.machine()}}
    )


if __name__ == "__main__":
    main()
