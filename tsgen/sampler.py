"""Iterative decoding: all tokens masked at first, the confident ones kept, step by step.

    masked after step t of S:  floor(n_unknown γ((t + 1) / S))          γ in SCHEDULES, float64
    token:                     inverse CDF of softmax(logits / temperature) at one uniform
    confidence:                log p + choice_temperature (1 - (t + 1) / S) Gumbel, known +inf
    guidance:                  logits = l_none + s (l_class - l_none)

Chang et al. 2022 (MaskGIT), section 3.2; Ho & Salimans 2022 for guidance. Sample i of seed s is
a function of (model, seed, i, label, settings) alone: its noise is counted, not drawn in a row,
and its sums do not depend on what is computed beside it.
"""

import weakref
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from tsgen.checks import one_of
from tsgen.config import SamplingConfig
from tsgen.engine_cpu import CpuEngine
from tsgen.engine_cuda import CudaEngine
from tsgen.engine_cuda_cpp import CudaCppEngine
from tsgen.engine_torch import TorchEngine
from tsgen.engine_vae import VaeEngine
from tsgen.errors import bad_value
from tsgen.network import Network
from tsgen.request import Ints, Request, chunks, padded


class Engine(Protocol):
    """What draws samples of one network."""

    needs_blocks: bool  # strict mode has to give it whole blocks of indices

    def __init__(self, network: Network) -> None: ...

    @staticmethod
    def obstacle(network: Network) -> str | None:
        """Why it cannot run this network here, or None if it can."""

    @property
    def at_once(self) -> int:
        """Samples that it likes to get together."""

    def tokens(self, request: Request, settings: SamplingConfig) -> list[Tensor]:
        """Token ids of every band, (B, N) each."""

    def series(self, ids: list[Tensor]) -> Tensor:
        """(B, C, length), scaled as in training."""

    def draw(self, request: Request, settings: SamplingConfig) -> tuple[list[Tensor], Tensor]:
        """Both."""


ENGINES: dict[str, type[Engine]] = {
    "torch": TorchEngine,
    "cpu": CpuEngine,
    "cuda": CudaEngine,
    "cuda_cpp": CudaCppEngine,
    "vae": VaeEngine,
}

# with no engine named: the first with no obstacle
PREFERENCE = ("cuda", "cuda_cpp", "cpu", "torch", "vae")

# network: its weights' addresses and versions, and engines made of them by name
_made: weakref.WeakKeyDictionary[Network, tuple[Any, dict[str, Engine]]]
_made = weakref.WeakKeyDictionary()

# network: where each of its tensors is held, by a dict that stays and a name in it
_places: weakref.WeakKeyDictionary[Network, list[tuple[dict[str, Any], str]]]
_places = weakref.WeakKeyDictionary()


class Sampler:
    """Draws samples of a network by one of the engines."""

    def __init__(self, network: Network, *, engine: str = "auto", strict: bool = True) -> None:
        """Prepare an engine.

        network:  trained, in eval mode; its device and dtype are the sampler's
        engine:   a name in ENGINES; "auto" takes the first of PREFERENCE that can run
        strict:   sample i is bitwise the same whatever is drawn with it; else engine "torch"
                  computes only what is asked for, which is less work for a handful of samples
        raises:   ArgumentError for an engine that cannot run this network here
        """
        one_of("engine", engine, ("auto", *ENGINES))
        name = engine if engine != "auto" else chosen(network)
        if why := ENGINES[name].obstacle(network):
            raise bad_value("engine", "one that can run this network", f"{name!r}, which {why}")
        self.network, self.engine = network, prepared(network, name)
        self.strict = strict and self.engine.needs_blocks

    def draw(
        self, request: Request, settings: SamplingConfig
    ) -> Iterator[tuple[Ints, list[Tensor], Tensor]]:
        """Yield (places in the request, token ids of each band, series), chunk by chunk.

        request:   samples, with labels and known tokens
        settings:  how to draw them
        yields:    (b,) places; ids (b, N) per band; series (b, C, length), scaled as in training
        """
        own = str(self.network.like.dtype).removeprefix("torch.")
        if settings.dtype not in (None, own) and not isinstance(self.engine, CudaEngine):
            got = f"{settings.dtype!r}, which only engine 'cuda' has beside the weights' own"
            raise bad_value("dtype", f"None or {own!r}", got)
        at_once = self.engine.at_once
        for places in chunks(request.index_B, at_once, strict=self.strict):
            part = request.at(places)
            if not self.strict:
                yield places, *self.engine.draw(part, settings)
                continue
            part, rows = padded(part, self.network.config.n_classes)
            ids, series = self.engine.draw(part, settings)
            pick = torch.from_numpy(rows)
            yield places, [ids_BN[pick] for ids_BN in ids], series[pick]


def chosen(network: Network) -> str:
    """The engine that "auto" stands for."""
    return next(name for name in PREFERENCE if not ENGINES[name].obstacle(network))


def prepared(network: Network, name: str) -> Engine:
    """The engine of these very weights: made once, and again when they have changed.

    A change that PyTorch does not count, such as a fused optimizer's, is not seen.
    """
    state = tensors(network)
    if any(t.is_inference() for t in state):  # they do not say whether they have changed
        return ENGINES[name](network)
    key = tuple((t.data_ptr(), t._version) for t in state)
    found, engines = _made.get(network, (None, {}))
    if found != key:
        engines = {}
        _made[network] = key, engines
    if name not in engines:
        engines[name] = ENGINES[name](network)
    return engines[name]


def tensors(network: Network) -> list[Tensor]:
    """Parameters and buffers; to look for them anew takes ten times as long."""
    if network not in _places:
        held = [d for m in network.modules() for d in (m._parameters, m._buffers)]
        _places[network] = [(d, name) for d in held for name, t in d.items() if t is not None]
    return [d[name] for d, name in _places[network]]


def bar(total: int, progress: bool | None) -> Any:
    """A progress bar; unless told otherwise only on a terminal, and after a second."""
    disable = None if progress is None else not progress  # None: tqdm looks for a terminal
    return tqdm(total=total, unit="series", disable=disable, delay=0 if progress else 1)
