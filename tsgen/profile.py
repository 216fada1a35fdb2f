"""What `tsgen profile` does: a trace of sampling and of training, with a range per hot path.

Ops and the ranges of `tsgen.spans` carry names that begin with tsgen::. The native engine is seen
from outside, priors and decoder; engine torch down to its ops.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity

from tsgen.config_training import TrainConfig
from tsgen.log import Log
from tsgen.measure import Run
from tsgen.model import Model
from tsgen.run import Run as TrainingRun
from tsgen.spans import span
from tsgen.train import Trainer

PREFIX = "tsgen::"
Totals = dict[tuple[str, ...], tuple[float, int]]  # a range within others: milliseconds, calls


def trace(runs: dict[str, Run], out: Path) -> str:
    """Run each once unseen and once under the profiler.

    runs:     by the name of the outermost range; on the CPU a range lasts as long as its work
    out:      the trace, Chrome JSON, is written there
    returns:  a table of all ranges
    """
    for run in runs.values():
        run()
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with torch.profiler.profile(activities=activities) as profiler:
        for name, run in runs.items():
            with span(name):
                run()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
    profiler.export_chrome_trace(str(out))
    return "\n".join(table(totals(profiler.events() or ())))


def totals(events: Iterable[Any]) -> Totals:
    """Time in every range, by the ranges around it."""
    found: Totals = {}
    for event in events:
        if event.name.startswith(PREFIX):
            path: tuple[str, ...] = (event.name,)
            above = event.cpu_parent
            while above is not None:
                path = (above.name, *path) if above.name.startswith(PREFIX) else path
                above = above.cpu_parent
            ms, calls = found.get(path, (0.0, 0))
            found[path] = ms + event.cpu_time_total / 1e3, calls + 1
    return found


def table(found: Totals) -> list[str]:
    """A line for every range under the one it is in, the longest first."""
    lines = [f"{'range':48} {'total ms':>10} {'share':>7} {'calls':>7}"]

    def add(path: tuple[str, ...]) -> None:
        if path:
            ms, calls = found[path]
            name, share = "  " * (len(path) - 1) + path[-1], ms / found[path[:1]][0]
            lines.append(f"{name:48} {ms:10.1f} {share:7.1%} {calls:7}")
        inner = [p for p in found if p[:-1] == path]
        for child in sorted(inner, key=lambda p: -found[p][0]):
            add(child)

    add(())
    return lines


def training(model: Model, n: int) -> dict[str, Run]:
    """Steps of every stage of a new model of these sizes, on series drawn from this one.

    n:        steps a stage
    returns:  what takes them, by stage
    """
    config = TrainConfig(validation=0.0, device=model.device)
    labels, size = model.labels, config.batch_size
    x = model.generate(size, label=labels and np.resize(labels.names, size), progress=False)
    classes = np.resize(np.arange(len(labels.names) if labels else 1), size)
    run = TrainingRun(x, classes, labels, model.config, config, None)
    runs: dict[str, Run] = {}
    for name, (_, make) in run.stages().items():
        trainer = Trainer(make(), config, Log(None), lambda _: None)
        trainer.progress.total = config.steps[0]  # known: no step is timed
        runs[f"train {name}"] = functools.partial(take, trainer, n)
    return runs


def take(trainer: Trainer, n: int) -> None:
    """The next n steps."""
    for _ in range(n):
        trainer.step()
        trainer.progress.step += 1
