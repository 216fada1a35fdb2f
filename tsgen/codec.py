"""Series to tokens and back, as many at a time as the network's engine likes."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tsgen.engine_cuda_cpp import CudaCppEngine
from tsgen.network import Network
from tsgen.request import CHUNK
from tsgen.sampler import Sampler

MOST_ENCODED = 2**12  # series at a time on a GPU


def encode(network: Network, x_BCL: Tensor) -> list[Tensor]:
    """Token ids of every band, (B, N) each, of scaled series; on the network's device."""
    like, engine = network.like, Sampler(network).engine  # its device and dtype
    if isinstance(engine, CudaCppEngine):  # where PyTorch's ops would sum by the batch's size
        return [ids_BN.to(like.device) for ids_BN in engine.encode(x_BCL)]
    # the kernels for GPUs sum a row alike in any number of rows
    size = min(MOST_ENCODED, engine.at_once) if like.is_cuda else CHUNK
    parts = [network.tokenizer.encode(part.to(like)) for part in x_BCL.split(size)]
    return [torch.cat(band) for band in zip(*parts, strict=True)]


def decode(network: Network, ids: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Yield which of the rows, and their series (b, C, length), scaled as in training."""
    engine, device = Sampler(network).engine, network.like.device
    step = engine.at_once  # which may shrink on the way
    for first in range(0, len(ids[0]), step):
        part = slice(first, first + step)
        yield part, engine.series([ids_BN[part].to(device) for ids_BN in ids])
