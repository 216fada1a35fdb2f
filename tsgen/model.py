"""A trained model as its users hold it: arrays in their own units and labels in, arrays out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsgen import arguments, codec, impute, storage
from tsgen.config import ModelConfig, SamplingConfig
from tsgen.data import Labels, Scaler, as_series
from tsgen.errors import RunError, bad_value
from tsgen.network import Network
from tsgen.request import CHUNK, Ints, Order, Request, regrouped
from tsgen.sampler import Sampler, bar

Floats = NDArray[np.float32]

NAMED = 2**14  # named indices that are sorted into chunks at a time


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

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.like.device

    def to(self, device: str | torch.device) -> Self:
        """Move the weights; returns the model."""
        self.network.to(device)
        return self

    def __repr__(self) -> str:
        (C, L), classes = self.shape, self.config.n_classes
        weights = sum(p.numel() for p in self.network.parameters())
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
        batch_size:  series handed on at a time; at least 64 are computed together
        strict:      keep the above true to the bit; False is faster for a handful of series where
                     the native engine does not run
        progress:    show a bar; None shows one on a terminal, where it lasts
        settings:    of tsgen.config.SamplingConfig: steps, temperature, choice_temperature,
                     guidance, schedule, top_k, top_p, dtype
        returns:     (n, channels, length) float32, in the units of the training data
        raises:      ArgumentError, ArgumentTypeError
        """
        step = None if batch_size is None else arguments.count(batch_size, "batch_size")
        order = self.order(n, label, seed, indices, settings)
        try:
            out = np.empty((len(order.index), *self.shape), dtype=np.float32)
        except (MemoryError, ValueError) as error:
            hint = "use stream(), or tsgen.generate(..., out=folder)"
            raise bad_value("n", f"as many series as memory holds ({hint})", n) from error
        with bar(len(out), progress) as shown:
            for part, series in self.drawn(order, strict, step):
                out[part] = series
                shown.update(len(series))
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
        size = CHUNK if batch_size is None else arguments.count(batch_size, "batch_size")
        order = self.order(n, label, seed, indices, settings)
        # whole chunks are computed however small the batches are
        return regrouped((series for _, series in self.drawn(order, strict, size)), size)

    def drawn(self, order: Order, strict: bool, step: int | None) -> Iterator[tuple[slice, Floats]]:
        """The series of an order, about `step` at a time and in its sequence."""
        sampler = Sampler(self.network, strict=strict)
        step = sampler.engine.at_once if step is None else step
        step = max(CHUNK, step // CHUNK * CHUNK)  # never a part of what is computed together
        # indices of one chunk may be named far apart: then many are looked at together
        step = step if isinstance(order.index, range) else max(step, NAMED)
        for first in range(0, len(order.index), step):
            part = slice(first, min(first + step, len(order.index)))
            yield part, self.series(sampler, order.request(part), order.settings)

    def series(self, sampler: Sampler, request: Request, settings: SamplingConfig) -> Floats:
        """The series of a request, in the data's units."""
        out = np.empty((len(request.index_B), *self.shape), dtype=np.float32)
        for places, _, series in sampler.draw(request, settings):
            out[places] = self.unscaled(series)
        return out

    def scaled(self, array: Floats) -> Tensor:
        """Series in the data's units as the tokenizer sees them."""
        return torch.from_numpy(self.scaler.apply(array))

    def unscaled(self, series_BCL: Tensor) -> Floats:
        """Decoded series in the data's units."""
        scaled = series_BCL.float().cpu().numpy()
        if not np.isfinite(scaled).all():
            raise RunError("model: wanted finite series, got NaN or infinity; is it trained?")
        return self.scaler.undo(scaled)

    def impute(
        self,
        x: object,
        *,
        label: object = None,
        seed: int = 0,
        layout: str = "nct",
        **settings: Any,
    ) -> Floats:
        """Fill in what is missing.

        x:        (n, channels, length) or (n, length), NaN where unknown
        label:    as in `generate`, one for all or one for each series
        returns:  (n, channels, length) float32; known values come back unchanged
        raises:   ArgumentError, ArgumentTypeError
        """
        self.needs_tokens("impute")
        array = as_series(x, layout=layout, name="x", allow_nan=True)
        self.check_shape(array)
        return self.filled(array, self.order(len(array), label, seed, None, settings))

    def filled(self, array: Floats, order: Order) -> Floats:
        """`impute`, once all is checked."""
        missing: NDArray[np.bool_] = np.isnan(array)
        if not missing.any():
            return array
        request = order.request(slice(None))
        ids = codec.encode(self.network, self.scaled(impute.filled(array)))
        known = impute.masked(ids, np.asarray(missing.any(axis=1)), self.config.tokenizer)
        request = Request(request.index_B, request.class_B, known, request.seed)
        drawn = self.series(Sampler(self.network), request, order.settings)
        config = self.config.tokenizer
        # a border's difference is carried as far as one token of the lowest band reaches
        return impute.stitched(array, drawn, fade=config.hop << config.n_halvings(0))

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
        returns:  (m, n, channels, horizon) float32; future k of series i is sample i * n + k
        raises:   ArgumentError, ArgumentTypeError
        """
        self.needs_tokens("forecast")
        C, L = self.shape
        past = as_series(history, layout=layout, name="history", allow_nan=True)
        horizon, n = arguments.count(horizon, "horizon"), arguments.count(n, "n")
        if horizon >= L:
            raise bad_value("horizon", f"a whole number from 1 to {L - 1}", horizon)
        if past.shape[1] != C:
            raise bad_value("history", f"{C} channels", past.shape[1])
        m, past = len(past), past[:, :, -(L - horizon) :]
        order = self.order(m, label, seed, None, settings)
        classes = np.repeat(np.broadcast_to(order.classes, m), n)
        window = np.full((m, C, L), np.nan, dtype=np.float32)
        window[:, :, L - horizon - past.shape[2] : L - horizon] = past
        each = Order(range(m * n), classes, order.seed, order.settings)
        out = self.filled(np.repeat(window, n, axis=0), each)
        return out[:, :, L - horizon :].reshape(m, n, C, horizon)

    def encode(self, x: object, *, layout: str = "nct") -> Ints:
        """Token ids (n, tokens) int64 of series (n, channels, length): the low band's first.

        raises:  ArgumentError, ArgumentTypeError
        """
        self.needs_tokens("encode")
        array = as_series(x, layout=layout, name="x")
        self.check_shape(array)
        ids = codec.encode(self.network, self.scaled(array))
        return torch.cat(ids, 1).cpu().numpy()

    def decode(self, ids: object) -> Floats:
        """Series (n, channels, length) float32 of token ids (n, tokens), as `encode` gives them.

        raises:  ArgumentError, ArgumentTypeError
        """
        self.needs_tokens("decode")
        bands = arguments.token_ids(ids, self.config.tokenizer)
        out = np.empty((len(bands[0]), *self.shape), dtype=np.float32)
        for part, series in codec.decode(self.network, bands):
            out[part] = self.unscaled(series)
        return out

    def needs_tokens(self, what: str) -> None:
        """Refuse what is done with tokens for a model that has none."""
        if self.config.family != "vq":
            wanted = "a model of family 'vq', which has tokens"
            raise bad_value(f"{what} of model", wanted, f"one of family {self.config.family!r}")

    def check_shape(self, array: Floats) -> None:
        """Refuse series of another shape than the model's."""
        if array.shape[1:] != self.shape:
            C, L = self.shape
            raise bad_value("x", f"(n, {C}, {L})", array.shape)

    def order(
        self,
        n: int | None,
        label: object,
        seed: int,
        indices: Sequence[int] | Ints | None,
        settings: dict[str, Any],
    ) -> Order:
        """Everything checked before any work."""
        index = arguments.sample_indices(n, indices)
        how = arguments.sampling(self.config, settings)
        classes = self.class_ids(label, len(index))
        return Order(index, classes, arguments.check_seed(seed), how)

    def class_ids(self, label: object, n: int) -> int | Ints:
        """One class id for all, or one for each of n; n_classes where there is no label."""
        if label is None:
            return self.config.n_classes
        if self.labels is None:
            raise bad_value("label", "None: this model was trained without labels", repr(label))
        if isinstance(label, str | int | np.generic) or np.ndim(label) == 0:  # type: ignore[arg-type]
            return int(self.labels.encode(label)[0])
        return self.labels.encode(label, n)

    def save(self, path: str | os.PathLike[str], *, half: bool = False) -> None:
        """Write a folder with config.json and safetensors; all of it or nothing.

        half:    keep 16 bits of each weight: half the size, and not quite the same series
        raises:  FileError
        """
        storage.write(self, arguments.path(path), half=half)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Model:
        """Read a folder that `save` wrote. Nothing in it is executed.

        raises:  FileError for anything that is not a whole, unaltered model
        """
        return Model(*storage.read(arguments.path(path)))
