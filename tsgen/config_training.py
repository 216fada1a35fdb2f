"""How to train: steps, batches, rates, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tsgen import arguments
from tsgen.checks import each, number, one_of, whole
from tsgen.config import SslConfig
from tsgen.errors import bad_type, bad_value


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Pairs are for stage 1, the tokenizer, and stage 2, the prior.

    A vae has one stage: steps of the tokenizer and of each band's prior, the first learning rate.
    """

    steps: tuple[int, int] = (2000, 1500)
    minutes: float | None = None  # instead of steps: for both stages together
    batch_size: int = 64
    learning_rate: tuple[float, float] = (2e-3, 1e-3)
    warm_up: float = 0.05  # share of the steps
    final_rate: float = 0.02  # share of the learning rate that the cosine ends at
    weight_decay: float = 0.01
    clip: float = 1.0  # largest norm of the gradient, of what a model keeps and of the rest
    ema: float = 0.998  # of the prior's weights
    validation: float = 0.1  # share of the series, 1 in 2, 3, ... of each class; none below 100
    evaluations: int = 25  # a stage: validation, log line, checkpoint
    patience: int = 8  # evaluations without a better validation loss before a stage ends
    seed: int = 0
    device: str | torch.device = "auto"  # a GPU where there is one; "cpu", "cuda", "cuda:1"
    autocast: str | None = None  # "bfloat16": products in it, all else in float32
    compile: bool = False  # by torch.compile, the loss of both stages
    ssl: SslConfig | None = None  # self-supervision in stage 1

    def __post_init__(self) -> None:
        stages = "one a stage"
        for steps in each("steps", self.steps, 2, stages):
            whole("steps", steps, at_most=2**40)
        for rate in each("learning_rate", self.learning_rate, 2, stages):
            number("learning_rate", rate, more=True)
        if self.minutes is not None:
            number("minutes", self.minutes, more=True)
        for name in ("batch_size", "evaluations", "patience"):
            whole(name, getattr(self, name))
        for name in ("warm_up", "final_rate", "ema", "validation"):
            number(name, getattr(self, name), below=1)
        number("clip", self.clip, more=True)
        number("weight_decay", self.weight_decay)
        whole("seed", self.seed, at_least=0, at_most=2**64 - 1)
        arguments.device(self.device)
        if self.autocast == "float16":
            wanted = "'bfloat16' or None: gradients vanish in float16 where the loss is not scaled"
            raise bad_value("autocast", wanted, "'float16'")
        one_of("autocast", self.autocast, (None, "bfloat16"))
        one_of("compile", self.compile, (False, True))
        if not isinstance(self.ssl, SslConfig | None):
            raise bad_type("ssl", "a name of an objective, an SslConfig or None", self.ssl)
        if self.ssl is not None:  # objectives compare series, and their heads normalise them
            whole("batch_size", self.batch_size, at_least=2)
