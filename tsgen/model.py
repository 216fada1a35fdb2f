"""A trained model as its users hold it: arrays in their own units and labels in, arrays out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from tsgen import arguments, checkpoint, impute
from tsgen.compat import network_from_timevqvae
from tsgen.config import ModelConfig, SamplingConfig
from tsgen.data import Labels, Scaler, as_series
from tsgen.errors import FileError, bad_type, bad_value
from tsgen.network import Network
from tsgen.sampler import CHUNK, Request, Sampler

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Model:
    """Tokenizer, prior, the data's scale and its labels.

    network:  the nn.Module with all weights, in eval mode
    scaler:   mean and standard deviation of each channel of the training data
    labels:   the classes' names, or None
    """

    def __init__(self, network: Network, scaler: Scaler, labels: Labels | None = None) -> None:
        self.network, self.scaler, self.labels = network.eval(), scaler, labels

    @property
    def config(self) -> ModelConfig:
        """Sizes and the defaults of sampling."""
        return self.network.config

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and samples of a series."""
        return self.config.tokenizer.n_channels, self.config.tokenizer.length

    def __repr__(self) -> str:
        C, L = self.shape
        weights = sum(p.numel() for p in self.network.parameters())
        classes = len(self.labels.names) if self.labels else 0
        return f"<tsgen.Model {C} x {L}, {classes} classes, {weights:,} weights>"

    def generate(
        self,
        n: int | None = None,
        *,
        label: object = None,
        seed: int = 0,
        indices: Sequence[int] | Ints | None = None,
        batch_size: int | None = None,
        strict: bool = True,
        progress: bool | None = None,
        **settings: Any,
    ) -> Floats:
        """New series.

        n:           how many; or leave it out and name `indices`
        label:       a class name or index, one for all or one for each; None draws without class
        seed:        0 to 2**64 - 1. Sample i depends on (model, seed, i, its label, settings) alone
        indices:     absolute sample indices: generate(10)[3] == generate(indices=[3])[0]
        batch_size:  accepted for symmetry with `stream`; changes nothing in the result
        strict:      keep the above true to the bit; False is faster for a handful of series
        progress:    show a bar; None shows one where it is watched and lasts
        settings:    of tsgen.config.SamplingConfig: steps, temperature, choice_temperature,
                     guidance, schedule, top_k, top_p
        returns:     (n, channels, length) float32, in the units of the training data
        raises:      ArgumentError, ArgumentTypeError
        """
        index, classes, how = self.order(n, label, seed, indices, batch_size, settings)
        out = np.empty((len(index), *self.shape), dtype=np.float32)
        request = Request(index, classes, seed=seed)
        with bar(len(index), progress) as shown:
            for places, _, series in Sampler(self.network, strict=strict).draw(request, how):
                out[places] = self.scaler.undo(series.cpu().numpy())
                shown.update(len(places))
        return out

    def stream(
        self,
        n: int | None = None,
        *,
        label: object = None,
        seed: int = 0,
        indices: Sequence[int] | Ints | None = None,
        batch_size: int | None = None,
        strict: bool = True,
        **settings: Any,
    ) -> Iterator[Floats]:
        """As `generate`, in order and batch by batch, in memory that does not grow.

        batch_size:  series a batch, default as many as are computed together
        yields:      (batch_size or fewer, channels, length) float32
        """
        index, classes, how = self.order(n, label, seed, indices, batch_size, settings)
        return self.batches(index, classes, seed, batch_size or CHUNK, strict, how)

    def batches(
        self,
        index: Ints,
        classes: Ints,
        seed: int,
        batch_size: int,
        strict: bool,
        settings: SamplingConfig,
    ) -> Iterator[Floats]:
        """Whole chunks are computed however small the batches are, and cut up."""
        sampler, held = Sampler(self.network, strict=strict), np.empty((0, *self.shape), np.float32)
        step = max(CHUNK, batch_size // CHUNK * CHUNK)
        for first in range(0, len(index), step):
            part = slice(first, first + step)
            request = Request(index[part], classes[part], seed=seed)
            out = np.empty((len(request.index_B), *self.shape), dtype=np.float32)
            for places, _, series in sampler.draw(request, settings):
                out[places] = self.scaler.undo(series.cpu().numpy())
            held = np.concatenate([held, out])
            while len(held) >= batch_size:
                yield held[:batch_size].copy()
                held = held[batch_size:]
        if len(held):
            yield held

    def impute(
        self, x: object, *, label: object = None, seed: int = 0, layout: str = "nct", **settings: Any
    ) -> Floats:
        """Fill in what is missing.

        x:        (n, channels, length) or (n, length), NaN where unknown
        label:    as in `generate`, one for all or one for each series
        returns:  (n, channels, length) float32; known values come back unchanged
        raises:   ArgumentError, ArgumentTypeError
        """
        array = as_series(x, layout=layout, name="x", allow_nan=True)
        self.check_shape(array)
        _, classes, how = self.order(len(array), label, seed, None, None, settings)
        missing: NDArray[np.bool_] = np.isnan(array)
        if not missing.any():
            return array
        known = self.known(array, np.asarray(missing.any(axis=1)))
        request = Request(np.arange(len(array)), classes, known=known, seed=seed)
        drawn = np.empty_like(array)
        for places, _, series in Sampler(self.network).draw(request, how):
            drawn[places] = self.scaler.undo(series.cpu().numpy())
        return impute.stitched(array, drawn, fade=self.fade)

    @property
    def fade(self) -> int:
        """Samples of one token of the lowest band: how far a border's difference is carried."""
        return self.config.tokenizer.hop << self.config.tokenizer.n_halvings(0)

    def known(self, array: Floats, missing_NL: NDArray[np.bool_]) -> list[Tensor]:
        """Token ids of every band, [MASK] where they have to be drawn."""
        config = self.config.tokenizer
        ids = self.tokens(impute.filled(array))
        return [
            torch.where(
                torch.from_numpy(impute.known_tokens(missing_NL, config, band)),
                ids_BN.cpu(),
                config.n_codes[band],
            )
            for band, ids_BN in enumerate(ids)
        ]

    def forecast(
        self,
        history: object,
        horizon: int,
        n: int = 1,
        *,
        label: object = None,
        seed: int = 0,
        layout: str = "nct",
        **settings: Any,
    ) -> Floats:
        """Continue series: `n` possible futures for each.

        history:  (m, channels, time) or (m, time); its last length - horizon samples are used
        horizon:  samples to draw, from 1 to length - 1
        returns:  (m, n, channels, horizon) float32
        raises:   ArgumentError, ArgumentTypeError
        """
        C, L = self.shape
        past = as_series(history, layout=layout, name="history", allow_nan=True)
        if isinstance(horizon, bool) or not isinstance(horizon, int) or not 0 < horizon < L:
            raise bad_value("horizon", f"a whole number from 1 to {L - 1}", horizon)
        arguments.count(n, "n")
        if past.shape[1] != C:
            raise bad_value("history", f"{C} channels", past.shape[1])
        m, past = len(past), past[:, :, -(L - horizon) :]
        window = np.full((m, C, L), np.nan, dtype=np.float32)
        window[:, :, L - horizon - past.shape[2] : L - horizon] = past
        if label is not None and self.labels is not None:
            label = np.repeat(self.class_ids(label, m), n)
        out = self.impute(np.repeat(window, n, axis=0), label=label, seed=seed, **settings)
        return out[:, :, L - horizon :].reshape(m, n, C, horizon)

    def encode(self, x: object, *, layout: str = "nct") -> Ints:
        """Token ids (n, tokens) int64 of series (n, channels, length): the low band's first.

        raises:  ArgumentError, ArgumentTypeError
        """
        array = as_series(x, layout=layout, name="x")
        self.check_shape(array)
        return torch.cat(self.tokens(array), 1).cpu().numpy()

    def decode(self, ids: object) -> Floats:
        """Series (n, channels, length) float32 of token ids (n, tokens), as `encode` gives them.

        raises:  ArgumentError, ArgumentTypeError
        """
        config = self.config.tokenizer
        sizes = [config.n_tokens(band) for band in range(config.bands)]
        array = np.asarray(ids)
        if array.dtype.kind not in "iu":
            raise bad_type("ids", "whole numbers", ids)
        if array.ndim != 2 or array.shape[1] != sum(sizes):
            raise bad_value("ids", f"(n, {sum(sizes)})", array.shape)
        bands = torch.from_numpy(array.astype(np.int64)).split(sizes, dim=1)
        for band, ids_BN in enumerate(bands):
            K = config.n_codes[band]
            if ids_BN.numel() and not 0 <= int(ids_BN.min()) <= int(ids_BN.max()) < K:
                got = f"{int(ids_BN.min())} to {int(ids_BN.max())}"
                raise bad_value("ids", f"0 to {K - 1} in band {band}", got)
        out = np.empty((len(array), *self.shape), dtype=np.float32)
        for first in range(0, len(array), CHUNK):
            part = slice(first, first + CHUNK)
            series = self.network.tokenizer.decode([b[part].to(self.device) for b in bands])
            out[part] = self.scaler.undo(series.cpu().numpy())
        return out

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.tokenizer.window_W.device

    def tokens(self, array: Floats) -> list[Tensor]:
        """Token ids of every band, in chunks."""
        scaled = torch.from_numpy(self.scaler.apply(array))
        encode = self.network.tokenizer.encode
        parts = [encode(part.to(self.device)) for part in scaled.split(CHUNK)]
        return [torch.cat(band) for band in zip(*parts, strict=True)]

    def check_shape(self, array: Floats) -> None:
        """Refuse series of another shape than the model's."""
        if array.shape[1:] != self.shape:
            C, L = self.shape
            raise bad_value("x", f"(n, {C}, {L})", array.shape)

    def class_ids(self, label: object, n: int) -> Ints:
        """Class ids (n,) int64; n_classes where there is none."""
        if label is None:
            return np.full(n, self.config.n_classes, dtype=np.int64)
        if self.labels is None:
            raise bad_value("label", "None: this model was trained without labels", repr(label))
        return self.labels.encode(label, n)

    def order(
        self,
        n: int | None,
        label: object,
        seed: int,
        indices: Sequence[int] | Ints | None,
        batch_size: int | None,
        settings: dict[str, Any],
    ) -> tuple[Ints, Ints, SamplingConfig]:
        """Everything checked before any work: sample indices, class ids, settings."""
        index = arguments.sample_indices(n, indices)
        arguments.check_seed(seed)
        if batch_size is not None:
            arguments.count(batch_size, "batch_size")
        return index, self.class_ids(label, len(index)), self.settings(settings)

    def settings(self, changes: dict[str, Any]) -> SamplingConfig:
        """The model's own defaults with some changes; one number serves all bands."""
        return arguments.changed(self.config.sampling, changes, self.config.tokenizer.bands)

    def to(self, device: str | torch.device) -> Self:
        """Move the weights; returns the model."""
        self.network.to(device)
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder with config.json and safetensors; all of it or nothing.

        raises:  FileError
        """
        labels = self.labels.to_dict() if self.labels else None
        config = {
            "model": self.config.to_dict(),
            "scaler": self.scaler.to_dict(),
            "labels": labels,
        }
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        checkpoint.write_folder(Path(path), config, tensors, kind="model")

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Model:
        """Read a folder that `save` wrote. Nothing in it is executed.

        raises:  FileError for anything that is not a whole, unaltered model
        """
        config, tensors = checkpoint.read_folder(Path(path), kind="model")
        try:
            network = Network(ModelConfig.from_dict(config["model"]))
            scaler = Scaler.from_dict(config["scaler"])
            labels = Labels.from_dict(config["labels"]) if config["labels"] else None
        except (KeyError, ValueError, TypeError) as error:
            raise FileError(f"{path}: wanted a tsgen model, got a damaged one: {error}") from error
        wanted = {k: (v.shape, v.dtype) for k, v in network.state_dict().items()}
        checkpoint.check_tensors(tensors, wanted, Path(path))
        network.load_state_dict(tensors)
        return Model(network, scaler, labels)


def from_timevqvae(maskgit: Any, scaler: Scaler | None = None, labels: Labels | None = None) -> Model:
    """A Model with the weights of a trained `timevqvae.maskgit.MaskGIT` (1.0.1).

    maskgit:  the trained MaskGIT
    scaler:   how its training data were scaled; None: not at all
    labels:   names of its classes; None: "0", "1", ...
    raises:   ArgumentTypeError for anything else
    """
    network = network_from_timevqvae(maskgit)
    C, n_classes = network.config.tokenizer.n_channels, network.config.n_classes
    if labels is None and n_classes:
        labels = Labels(tuple(str(i) for i in range(n_classes)))
    return Model(network, scaler or Scaler((0.0,) * C, (1.0,) * C), labels)


def bar(total: int, progress: bool | None) -> Any:
    """A progress bar; unless told otherwise only on a terminal, and after a second."""
    disable = None if progress is None else not progress  # None: tqdm looks for a terminal
    return tqdm(total=total, unit="series", disable=disable, delay=0 if progress else 1)
