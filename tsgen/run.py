"""One training run: its data, both stages, its folder, and how it resumes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsgen import arguments, checkpoint
from tsgen.config import ModelConfig
from tsgen.config_training import TrainConfig
from tsgen.data import Labels, Scaler
from tsgen.errors import FileError, bad_value
from tsgen.log import Log
from tsgen.model import Model
from tsgen.network import Network
from tsgen.prior import Prior, draw_n_masked, training_masks
from tsgen.ssl.learner import Learner
from tsgen.stage_vae import vae_stage
from tsgen.tokenizer import code_use
from tsgen.train import Stage, Trainer, part, seeded

Ints = NDArray[np.int64]

VALIDATION_FROM = 100  # series; of fewer, none can be spared
TOKENIZER_SHARE = 0.4  # of a budget in minutes; the priors have the rest in equal parts
VALIDATION_MASKS = 4  # draws of masks that every held-out series is judged under


class Run:
    """One training run: data, both stages, and its folder."""

    def __init__(
        self,
        array: NDArray[np.float32],
        classes: Ints,
        labels: Labels | None,
        model: ModelConfig,
        config: TrainConfig,
        out: Path | None,
    ) -> None:
        self.labels, self.config, self.out = labels, config, out
        self.device = arguments.device(config.device)
        self.fingerprint = fingerprint(array, classes, labels, model, config)
        train, held_out = split(classes, config)
        # the scale of the part that is trained on: the rest stands for data not yet seen
        self.scaler = Scaler.fit(array[train])
        scaled, self.classes = torch.from_numpy(self.scaler.apply(array)), torch.from_numpy(classes)
        self.x_train, self.x_valid = (scaled[part].to(self.device) for part in (train, held_out))
        self.y_train, self.y_valid = self.classes[train], self.classes[held_out]
        with seeded(config.seed, "weights"):
            self.network = Network(model)
        self.network.to(self.device)

    def stages(self) -> dict[str, tuple[torch.nn.Module, Callable[[], Stage]]]:
        """What is trained one after the other: the tokenizer, then the prior of each band."""
        stages: dict[str, tuple[torch.nn.Module, Callable[[], Stage]]]
        if self.network.config.family == "vae":
            return {"vae": (self.network.vae, functools.partial(vae_stage, self))}
        stages = {"tokenizer": (self.network.tokenizer, self.tokenizer_stage)}
        for band, prior in enumerate(self.network.each_prior()):
            stages[f"prior_{band}"] = prior, functools.partial(self.prior_stage, band)
        return stages

    def train(self, resume: bool, shown: bool | None) -> Model:
        """All stages, from the beginning or from the last checkpoint."""
        values, tensors = self.open(resume)
        log = Log(self.out / "metrics.jsonl" if self.out else None)
        if not values:
            log.clear()
        done: dict[str, dict[str, Tensor]] = {}
        for name, (module, make) in self.stages().items():
            if name in values.get("done", ()):
                done[name] = part(tensors, f"done.{name}.")
                module.load_state_dict(done[name])
                continue
            save = self.saver(done)
            trainer = Trainer(make(), self.config, log, save)
            if values.get("stage") == name:
                trainer.restore(values, tensors)
                log.cut(name, trainer.progress.step)
            trainer.run(shown)
            done[name] = module.state_dict()
        model = Model(self.network, self.scaler, self.labels)
        if self.out:
            model.save(self.out)
        return model

    def sent(self, tensor: Tensor) -> Tensor:
        """To the device; from pinned memory, so that nothing waits for it."""
        tensor = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return tensor.to(self.device, non_blocking=True)

    def saver(self, done: dict[str, dict[str, Tensor]]) -> Any:
        """What writes checkpoints, or does nothing where there is no folder."""
        if self.out is None:
            return lambda trainer: None
        return save_state(self.out / "training", self.fingerprint, done)

    def open(self, resume: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Make the folder; the saved state, if there is one to go on from."""
        if self.out is None:
            if resume:
                raise bad_value("resume", "False, or a folder `out` to resume in", True)
            return {}, {}
        state = self.out / "training"
        if not resume:
            if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
                wanted = "a new or empty folder, or resume=True"
                raise bad_value("out", wanted, f"{self.out}, which has something in it")
            make_folder(self.out)
            return {}, {}
        make_folder(self.out)
        if not (state / "config.json").exists():
            if (self.out / "config.json").exists():
                wanted = "a folder with the state of a run, or a new one"
                raise bad_value("resume", wanted, f"{self.out}, a model without one")
            return {}, {}
        values, tensors = checkpoint.read_folder(state, kind="training")
        if values["fingerprint"] != self.fingerprint:
            wanted = f"the data and settings that the run in {self.out} began with"
            got = "others, or the same from another version of tsgen, which has other settings"
            raise bad_value("resume", wanted, got)
        return values, tensors

    def tokenizer_stage(self) -> Stage:
        """Stage 1: reconstruct; with self-supervision also tell series apart. What is validated
        and kept is the reconstruction: an objective means little on one fixed batch."""
        tokenizer = self.network.tokenizer
        learner = self.learner()
        module = tokenizer if learner is None else learner
        compiled = self.whole(module)

        def loss(index: Tensor) -> tuple[Tensor, Callable[[], dict[str, float]]]:
            # the first step, with k-means in it, is not worth compiling
            started = all(band.codebook.has_started() for band in tokenizer.each())
            forward = compiled if started else module
            x_BCL = self.x_train[self.sent(index)]
            if learner is None:
                out = forward(x_BCL)
                return out.loss, lambda: code_use(out.counts)
            learner.follow()
            learned = forward(x_BCL, *learner.views(x_BCL, index))
            return learned.loss, learned.report

        def validate(_: torch.nn.Module) -> float:
            batches = self.x_valid.split(self.config.batch_size)
            total = sum(tokenizer(x).loss.double() * len(x) for x in batches)
            return float(total / len(self.x_valid))

        return Stage(
            "tokenizer",
            module,
            len(self.x_train),
            loss,
            validate if len(self.x_valid) else None,
            ema=False,
            learning_rate=self.config.learning_rate[0],
            steps=self.config.steps[0],
            share=TOKENIZER_SHARE,
            kept=tokenizer,
        )

    def learner(self) -> Learner | None:
        """What teaches the tokenizer beside its own loss, if anything does."""
        if self.config.ssl is None:
            return None
        with seeded(self.config.seed, "ssl", "weights"):
            learner = Learner(self.network.tokenizer, self.config.ssl)
        return learner.to(self.device)

    def prior_stage(self, band: int) -> Stage:
        """Stage 2: predict one band's masked tokens. The bands share no weight, so each stops by
        itself when it learns no more; the high one sees the low one's true tokens."""
        prior = self.network.each_prior()[band]
        prior.see([other.codebook.codes() for other in self.network.tokenizer.each()])
        train, valid = self.tokens
        config = self.network.config

        compiled = self.whole(prior.loss_at)

        def loss_of(
            loss_at: Callable[..., Tensor], tokens: list[Tensor], index: Tensor, class_B: Tensor
        ) -> Tensor:
            # masks are drawn here, where how many they cover is known without waiting for a GPU
            N = tokens[band].shape[1]
            n_masked_B = draw_n_masked(len(index), N, config.mask_polarity, index.device)
            rows_R = self.sent(training_masks(n_masked_B, N).flatten().nonzero()[:, 0])
            if loss_at is compiled and self.config.compile:
                torch._dynamo.mark_dynamic(rows_R, 0)  # another number in each step
            at_B = self.sent(index)
            low_BM = tokens[0][at_B] if band else None
            return loss_at(tokens[band][at_B], rows_R, self.sent(class_B), low_BM)

        def loss(index: Tensor) -> tuple[Tensor, Callable[[], dict[str, float]]]:
            hidden_B = torch.rand(len(index)) < config.p_unconditional
            class_B = torch.where(hidden_B, config.n_classes, self.y_train[index])
            return loss_of(compiled, train, index, class_B), dict

        def validate(module: torch.nn.Module) -> float:
            assert isinstance(module, Prior)
            class_B = self.y_valid
            total = torch.zeros((), dtype=torch.float64, device=self.device)
            for _ in range(VALIDATION_MASKS):
                for index in torch.arange(len(class_B)).split(self.config.batch_size):
                    total += loss_of(module.loss_at, valid, index, class_B[index]) * len(index)
            return float(total / len(class_B) / VALIDATION_MASKS)

        return Stage(
            f"prior_{band}",
            prior,
            len(self.x_train),
            loss,
            validate if len(self.x_valid) else None,
            ema=True,
            learning_rate=self.config.learning_rate[1],
            steps=self.config.steps[1],
            share=(1 - TOKENIZER_SHARE) / len(train),
        )

    def whole(self, function: Any) -> Any:
        """Compiled if so configured. Random numbers stay torch's own, as `seeded` sets them."""
        if not self.config.compile:
            return function
        return torch.compile(function, fullgraph=True, options={"fallback_random": True})

    @functools.cached_property
    def tokens(self) -> tuple[list[Tensor], list[Tensor]]:
        """Tokens of both parts of the data. They never change, so they are encoded once."""
        self.network.tokenizer.eval()
        return self.encoded(self.x_train), self.encoded(self.x_valid)

    def encoded(self, x_NCL: Tensor) -> list[Tensor]:
        """Tokens of a whole data set, per band."""
        tokenizer = self.network.tokenizer
        if not len(x_NCL):
            return []
        batches = [tokenizer.encode(x) for x in x_NCL.split(self.config.batch_size)]
        return [torch.cat(band) for band in zip(*batches, strict=True)]


def save_state(folder: Path, fingerprint: str, done: dict[str, dict[str, Tensor]]) -> Any:
    """A function that writes a trainer's state, beside the weights of stages that are done."""

    def save(trainer: Trainer) -> None:
        values, tensors = trainer.state()
        for name, weights in done.items():
            tensors = tensors | {f"done.{name}.{k}": v for k, v in weights.items()}
        tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
        values |= {"fingerprint": fingerprint, "done": sorted(done)}
        checkpoint.write_folder(folder, values, tensors, kind="training")

    return save


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path}: wanted a folder to write to: {error}") from error


def split(classes: Ints, config: TrainConfig) -> tuple[Ints, Ints]:
    """Indices to train on and to hold out, the same share of every class."""
    n = len(classes)
    if n < VALIDATION_FROM or config.validation == 0:
        return np.arange(n), np.arange(0)
    rng = np.random.default_rng(np.random.PCG64(config.seed))
    shuffled = rng.permutation(n)
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    every = max(2, round(1 / config.validation))
    held_out = np.zeros(n, dtype=np.bool_)
    held_out[by_class[every // 2 :: every]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def fingerprint(
    array: NDArray[np.float32],
    classes: Ints,
    labels: Labels | None,
    model: ModelConfig,
    config: TrainConfig,
) -> str:
    """Tells runs apart: a state is only good for the data and settings it came from.

    Defaults are among them: another version may have another one, or a setting more.
    """
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes())
    digest.update(classes.tobytes())
    same = replace(config, device="auto", compile=False)  # a run may go on elsewhere
    digest.update(repr((array.shape, labels, model, same)).encode())
    return digest.hexdigest()
