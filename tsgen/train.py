"""The training loop of both stages: AdamW, warm-up and cosine, best weights, exact resume.

Every random choice of step s of a stage is a function of (seed, stage, s), so a run that is killed
and resumed takes the very steps that it would have taken. All are drawn by the CPU's generator and
then moved: another device makes the same choices, and only rounds otherwise.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm.auto import tqdm

from tsgen.config_training import TrainConfig
from tsgen.errors import RunError
from tsgen.log import Log, Progress
from tsgen.spans import span

UNTIMED_STEPS = 5  # at first, in which kernels are compiled and memory is found
CALIBRATION_STEPS = 20  # after which a budget in minutes becomes one in steps


@dataclass
class Stage:
    """What one stage trains, and on what."""

    name: str
    module: nn.Module
    n_train: int
    # of the series at these indices, and more to log, computed where it is asked for
    loss: Callable[[Tensor], tuple[Tensor, Callable[[], dict[str, float]]]]
    validate: Callable[[nn.Module], float] | None  # mean loss of the series held out
    ema: bool
    learning_rate: float
    steps: int
    share: float  # of a budget in minutes
    kept: nn.Module | None = None  # the part of the module that a model is made of; None: all


def step_seed(seed: int, *place: object) -> int:
    """A seed of its own for every place: no stream to keep, nothing to restore."""
    digest = hashlib.sha256("/".join(map(str, (seed, *place))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@contextmanager
def seeded(seed: int, *place: object) -> Iterator[None]:
    """torch's generator as a function of `place` inside, and as it was after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(step_seed(seed, *place))
        yield


def batch_at(step: int, batch_size: int, n: int, seed: int, stage: str) -> Tensor:
    """Indices of a batch from an endless row of shuffled epochs."""
    size = min(batch_size, max(n, 8))  # a batch norm needs more than one or two
    first = step * size
    out: list[Tensor] = []
    while size > 0:
        epoch, start = divmod(first, n)
        part = shuffled(n, step_seed(seed, stage, "epoch", epoch))[start : start + size]
        out.append(part)
        first, size = first + len(part), size - len(part)
    return torch.cat(out)


@functools.lru_cache(maxsize=2)  # a batch may reach into the next epoch
def shuffled(n: int, seed: int) -> Tensor:
    """0 ... n - 1 in the order of one epoch."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


@dataclass
class Trainer:
    """Runs one stage, from wherever its saved state left off."""

    stage: Stage
    config: TrainConfig
    log: Log
    save: Callable[[Trainer], None]
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.stage.module.parameters() if p.requires_grad]
        kept = [p for p in (self.stage.kept or self.stage.module).parameters() if p.requires_grad]
        own = set(kept)
        # what is thrown away afterwards does not make the steps of what is kept any shorter
        self.clipped = [kept, [p for p in self.parameters if p not in own]]
        self.device = self.parameters[0].device
        self.began, self.untimed = 0.0, 0.0  # when, and seconds of the first steps
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.stage.learning_rate,
            weight_decay=self.config.weight_decay,
            betas=(0.9, 0.99),
            fused=True,
        )
        # what is validated and kept: the moving average of the weights, or the weights
        self.shadow = copy.deepcopy(self.stage.module) if self.stage.ema else self.stage.module
        self.best: dict[str, Tensor] = {}

    def run(self, shown: bool | None) -> None:
        """Train to the end of the budget and leave the best weights in the module."""
        now, stage = self.progress, self.stage
        self.began = time.monotonic() - now.seconds
        if not now.total and self.config.minutes is None:
            now.total = stage.steps
        with tqdm(
            total=now.total or None,
            initial=now.step,
            desc=stage.name,
            unit="step",
            disable=None if shown is None else not shown,
        ) as bar:
            # also looked at before the first step: a resumed stage may be at its end
            while (not now.total or now.step < now.total) and now.since_best < self.config.patience:
                loss, metrics = self.step()
                now.step += 1
                if not now.total:
                    now.total = self.affordable()
                    bar.total = now.total or None
                if self.due():
                    now.seconds = self.seconds()
                    line = self.evaluate(float(loss), metrics())
                    bar.set_postfix({k: f"{v:.3g}" for k, v in line.items()})
                    self.save(self)
                bar.update()
        stage.module.load_state_dict(self.best or self.shadow.state_dict())

    def due(self) -> bool:
        """Whether this step is one to validate and save at."""
        now = self.progress
        every = max(1, now.total // self.config.evaluations)
        return now.total > 0 and (now.step % every == 0 or now.step == now.total)

    def affordable(self) -> int:
        """Steps that fit into this stage's share of the minutes; 0 until some have been timed."""
        assert self.config.minutes is not None
        step = self.progress.step
        if step == UNTIMED_STEPS:
            self.untimed = self.seconds()
        if step < CALIBRATION_STEPS:
            return 0
        seconds = self.seconds()
        a_step = (seconds - self.untimed) / (step - UNTIMED_STEPS)
        left = 60 * self.config.minutes * self.stage.share - seconds
        return step + max(0, int(left / a_step))

    def seconds(self) -> float:
        """Since the stage began, once all that was asked of a GPU is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic() - self.began

    def rate(self) -> float:
        """Learning rate of the coming step: linear warm-up, then half a cosine."""
        total = self.progress.total or 10**6  # while it is unknown, warm-up lasts
        warm = max(1, round(self.config.warm_up * total))
        if self.progress.step < warm:
            return self.stage.learning_rate * (self.progress.step + 1) / warm
        done = (self.progress.step - warm) / max(1, total - warm)
        low = self.config.final_rate
        return self.stage.learning_rate * (low + (1 - low) * (1 + math.cos(math.pi * done)) / 2)

    def step(self) -> tuple[Tensor, Callable[[], dict[str, float]]]:
        """One update."""
        now, stage, config = self.progress, self.stage, self.config
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        batch = batch_at(now.step, config.batch_size, stage.n_train, config.seed, stage.name)
        stage.module.train()
        with seeded(config.seed, stage.name, now.step):
            with span("forward"), self.precision():
                loss, metrics = stage.loss(batch)
            self.optimizer.zero_grad(set_to_none=True)
            with span("backward"):
                loss.backward()
        with span("update"):
            for parameters in self.clipped:
                nn.utils.clip_grad_norm_(parameters, config.clip)
            self.optimizer.step()
            if stage.ema:
                self.average(min(config.ema, (1 + now.step) / (10 + now.step)))
        return loss.detach(), metrics

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Of the products of a step; validation is in float32, as sampling will be."""
        if self.config.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.config.autocast))

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the shadow towards the weights; statistics are taken as they are."""
        average = get_ema_multi_avg_fn(decay)
        average(list(self.shadow.parameters()), list(self.stage.module.parameters()), 0)
        for mine, theirs in zip(self.shadow.buffers(), self.stage.module.buffers(), strict=True):
            mine.copy_(theirs)

    def evaluate(self, loss: float, metrics: dict[str, float]) -> dict[str, float]:
        """Validate, remember the best weights, write a log line."""
        now = self.progress
        line = {"loss": loss, "rate": self.rate()} | metrics
        if self.stage.validate is not None:
            self.shadow.eval()
            with torch.no_grad(), seeded(self.config.seed, self.stage.name, "validation"):
                line["validation"] = self.stage.validate(self.shadow)
            loss = max(loss, line["validation"], key=lambda value: not math.isfinite(value))
        if not math.isfinite(loss):
            where = f"{self.stage.name}, step {now.step}"
            raise RunError(f"{where}: wanted a finite loss, got {loss}")
        if "validation" in line:
            now.since_best += 1
            if now.best is None or line["validation"] < now.best:
                now.best, now.since_best = line["validation"], 0
                self.best = {k: v.detach().clone() for k, v in self.shadow.state_dict().items()}
        return self.log.write(self.stage.name, now, line)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything the next step depends on: plain values and tensors."""
        tensors = {f"weights.{k}": v for k, v in self.stage.module.state_dict().items()}
        if self.stage.ema:
            tensors |= {f"average.{k}": v for k, v in self.shadow.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for i, p in enumerate(self.parameters):
            tensors |= {f"adam.{i}.{k}": v for k, v in self.optimizer.state[p].items()}
        return {"stage": self.stage.name, "progress": vars(self.progress)}, tensors

    def restore(self, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.progress = Progress(**values["progress"])
        self.stage.module.load_state_dict(part(tensors, "weights."))
        if self.stage.ema:
            self.shadow.load_state_dict(part(tensors, "average."))
        self.best = part(tensors, "best.")
        for i, p in enumerate(self.parameters):
            state = part(tensors, f"adam.{i}.")
            self.optimizer.state[p] = {k: v.to(p.device) for k, v in state.items()}


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
