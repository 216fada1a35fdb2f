"""What the tests of engines share: the law's tokens, computed once, and models with every edge."""

import functools

import torch
from test_sampler import N_SERIES, case, partly_known, request

from tsgen.config import SamplingConfig
from tsgen.engine_torch import TorchEngine
from tsgen.network import Network
from tsgen.request import Request

SHAPES = [  # every layer's edges: one token, one row, no block, identity skip, odd and long series
    {},
    {"bands": 1, "n_channels": 3},
    {"length": 2, "tokenizer": {"token_width": (1, 1)}},
    {"length": 129, "n_channels": 2, "tokenizer": {"n_resblocks": 0}},
    {"length": 100, "tokenizer": {"n_resblocks": 2, "hidden_dim": 4}},
    {"length": 511, "tokenizer": {"n_fft": 8, "max_dim": 16}},
    {"length": 77, "tokenizer": {"n_fft": 5, "token_width": (3, 20)}},
    {"length": 64, "tokenizer": {"n_fft": 16, "codebook": "cosine"}},
    {"bands": 1, "length": 50, "tokenizer": {"n_fft": 2}},
    {"n_codes": (60, 60), "tokenizer": {"codebook": "fsq", "levels": (5, 4, 3), "code_dim": 3}},
]


def same_series(a: list[torch.Tensor], b: list[torch.Tensor]) -> int:
    """How many series have the same tokens in every band."""
    return int(torch.stack([(x == y).all(1) for x, y in zip(a, b, strict=True)]).all(0).sum())


@functools.cache
def law(name: str, some_known: bool) -> tuple[Network, Request, SamplingConfig, list[torch.Tensor]]:
    """A case of test_sampler.py with the tokens of engine torch in float64."""
    network, classes, settings = case(name)
    asked = request(classes, partly_known(network, N_SERIES) if some_known else None)
    return network, asked, settings, TorchEngine(network).tokens(asked, settings)
