"""Series to tokens and back in parts, and rows in groups of another size."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_network

from tsgen import codec
from tsgen.engine_torch import TorchEngine
from tsgen.request import CHUNK, regrouped


class Shrinking:
    """An engine that likes fewer at a time after every call, as one does that ran out of memory."""

    def __init__(self, engine):
        self.engine, self.at_once = engine, 4

    def series(self, ids):
        self.at_once -= 1
        return self.engine.series(ids)


@pytest.mark.parametrize("n", [1, 4, 11])
def test_decode_gives_every_row_though_the_engine_shrinks(monkeypatch, n):
    network = tiny_network(length=32)
    engine = Shrinking(TorchEngine(network))
    monkeypatch.setattr(codec, "Sampler", lambda _: type("S", (), {"engine": engine}))
    config = network.config.tokenizer
    draw = torch.Generator().manual_seed(0)
    ids = [
        torch.randint(K, (n, config.n_tokens(band)), generator=draw)
        for band, K in enumerate(config.n_codes)
    ]
    found = torch.full((n, 1, 32), torch.nan)
    for part, series in codec.decode(network, ids):
        found[part] = series
    torch.testing.assert_close(found, engine.engine.series(ids))


def test_encode_is_the_same_in_parts_as_alone():
    network = tiny_network(length=32)
    x_BCL = torch.randn(CHUNK + 3, 1, 32, generator=torch.Generator().manual_seed(0))
    whole = codec.encode(network, x_BCL)
    assert [len(band) for band in whole] == [CHUNK + 3] * 2
    for band, alone in zip(whole, codec.encode(network, x_BCL[CHUNK + 1 :]), strict=True):
        torch.testing.assert_close(band[CHUNK + 1 :], alone, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 3, 5, 7, 100])
@pytest.mark.parametrize("parts", [(), (0,), (5,), (5, 5, 2), (1, 1, 1, 1), (0, 7, 0)])
def test_regrouped_rows(parts, size):
    rows = np.arange(2.0 * sum(parts), dtype=np.float32).reshape(-1, 2)
    given = np.split(rows, np.cumsum(parts)[:-1]) if parts else []
    out = list(regrouped(given, size))
    n = len(rows)
    assert [len(group) for group in out] == [size] * (n // size) + [n % size] * (n % size > 0)
    assert not out or np.array_equal(np.concatenate(out), rows)
    assert all(group.flags.owndata for group in out)  # a kept one keeps nothing else alive
    assert not any(np.shares_memory(group, rows) for group in out)
