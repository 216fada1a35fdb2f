"""Which samples are asked for, and which of them are computed together.

For an engine whose sums depend on the shapes, sample i always stands at place i % CHUNK of arrays
of one size, whatever else is asked for: its result is then the same to the bit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsgen.arguments import Indices
from tsgen.config import SamplingConfig
from tsgen.errors import bad_value

Ints = NDArray[np.int64]

CHUNK = 64  # samples computed together


@dataclass(frozen=True)
class Request:
    """Samples to draw, all by the same settings."""

    index_B: NDArray[np.int64]  # absolute sample indices
    class_B: NDArray[np.int64]  # class ids, n_classes for none
    known: list[Tensor] | None = None  # a band: (B, N) token ids, K where to be drawn
    seed: int = 0

    def at(self, places: NDArray[np.int64]) -> "Request":
        """Some of the samples."""
        known = None
        if self.known is not None:
            known = [ids_BN[torch.from_numpy(places)] for ids_BN in self.known]
        index_B, class_B = self.index_B[places], self.class_B[places]
        return replace(self, index_B=index_B, class_B=class_B, known=known)


@dataclass(frozen=True)
class Order:
    """Samples asked for, checked; memory only for what differs between them."""

    index: Indices
    classes: int | Ints  # one class id for all, or one for each
    seed: int
    settings: SamplingConfig

    def request(self, part: slice) -> Request:
        """Some of them, ready to draw."""
        index = self.index[part]
        index = np.arange(index.start, index.stop) if isinstance(index, range) else index
        classes = np.broadcast_to(self.classes, len(self.index))[part]
        return Request(index, np.ascontiguousarray(classes), seed=self.seed)


def chunks(
    index: NDArray[np.int64], at_once: int = CHUNK, *, strict: bool
) -> Iterator[NDArray[np.int64]]:
    """Positions in `index`, in groups that are computed together.

    at_once: positions a group, where not strict.
    strict: a group holds the requested samples of one block of CHUNK absolute indices.
    """
    if not strict:
        starts = range(0, len(index), at_once)
        yield from (np.arange(i, min(i + at_once, len(index))) for i in starts)
        return
    order = np.argsort(index, kind="stable")
    # an index asked for k times is computed k times, in k groups: its labels may differ
    again = np.zeros(len(index), dtype=np.int64)
    for i in np.flatnonzero(np.diff(index[order]) == 0) + 1:
        again[i] = again[i - 1] + 1
    regroup = np.lexsort((index[order] // CHUNK, again))
    order, again = order[regroup], again[regroup]
    block = index[order] // CHUNK
    edges = np.flatnonzero((np.diff(block) != 0) | (np.diff(again) != 0)) + 1
    yield from np.split(order, edges) if len(index) else ()


def padded(request: Request, unconditional: int) -> tuple[Request, NDArray[np.int64]]:
    """The request's samples among all CHUNK of their block, and where they stand.

    Whatever else is asked for, a sample stands in the same place of arrays of the same shape:
    matrix products then sum its numbers in the same order.
    """
    place = request.index_B % CHUNK
    first = request.index_B[0] - place[0]
    class_B = np.full(CHUNK, unconditional, dtype=np.int64)
    class_B[place] = request.class_B
    known = None
    if request.known is not None:
        known = []
        for ids_BN in request.known:
            # the first row again where nothing is asked for
            rows = np.zeros(CHUNK, dtype=np.int64)
            rows[place] = np.arange(len(place))
            known.append(ids_BN[torch.from_numpy(rows)])
    index_B = np.arange(first, first + CHUNK, dtype=np.int64)
    return replace(request, index_B=index_B, class_B=class_B, known=known), place


def regrouped(parts: Iterable[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """The same rows in the same order, `size` at a time, each group in memory of its own.

    A group that is kept keeps nothing else alive.
    """
    held: list[NDArray[np.float32]] = []
    for part in parts:
        rows = np.concatenate([*held, part])
        whole = len(rows) // size * size
        for first in range(0, whole, size):
            yield rows[first : first + size].copy()
        held = [rows[whole:]]
    yield from (rest.copy() for rest in held if len(rest))


def check_ids(name: str, ids: Tensor, largest: int) -> None:
    """Refuse what would be read from other memory."""
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) <= largest:
        got = f"{int(ids.min())} to {int(ids.max())}"
        raise bad_value(name, f"ids from 0 to {largest}", got)
