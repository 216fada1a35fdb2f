"""Iterative decoding: all tokens masked at first, the confident ones kept, step by step.

    masked after step t of S:  floor(n_unknown γ((t + 1) / S))          γ in SCHEDULES, float64
    token:                     inverse CDF of softmax(logits / temperature) at one uniform
    confidence:                log p + choice_temperature (1 - (t + 1) / S) Gumbel, known +inf
    guidance:                  logits = l_none + s (l_class - l_none)

Chang et al. 2022 (MaskGIT), section 3.2; Ho & Salimans 2022 for guidance. Sample i of seed s is
a function of (model, seed, i, label, settings) alone: its noise is counted, not drawn in a row,
and it always stands at the same place of a batch of one size.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from tsgen.config import SamplingConfig, one_of
from tsgen.engine_torch import TorchEngine
from tsgen.network import Network
from tsgen.request import Ints, Request, chunks, padded

ENGINES = {"torch": TorchEngine}


class Sampler:
    """Draws samples of a network by one of the engines."""

    def __init__(self, network: Network, *, engine: str = "auto", strict: bool = True) -> None:
        """Prepare an engine.

        network:  trained, in eval mode; its device and dtype are the sampler's
        engine:   "auto", or a name in ENGINES
        strict:   sample i is bitwise the same whatever is drawn with it; else a chunk holds only
                  what is asked for, which is less work for a handful of samples
        """
        one_of("engine", engine, ("auto", *ENGINES))
        self.network, self.strict = network, strict
        self.engine = ENGINES["torch" if engine == "auto" else engine](network)

    def draw(
        self, request: Request, settings: SamplingConfig
    ) -> Iterator[tuple[Ints, list[Tensor], Tensor]]:
        """Yield (places in the request, token ids of each band, series), chunk by chunk.

        request:   samples, with labels and known tokens
        settings:  how to draw them
        yields:    (b,) places; ids (b, N) per band; series (b, C, length), scaled as in training
        """
        for places in chunks(request.index_B, strict=self.strict):
            part = request.at(places)
            rows = np.arange(len(places))
            if self.strict:
                part, rows = padded(part, self.network.config.n_classes)
            ids = self.engine.tokens(part, settings)
            series = self.engine.series(ids)
            pick = torch.from_numpy(rows)
            yield places, [ids_BN[pick] for ids_BN in ids], series[pick]


def bar(total: int, progress: bool | None) -> Any:
    """A progress bar; unless told otherwise only on a terminal, and after a second."""
    disable = None if progress is None else not progress  # None: tqdm looks for a terminal
    return tqdm(total=total, unit="series", disable=disable, delay=0 if progress else 1)
