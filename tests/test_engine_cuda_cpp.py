"""Engine cuda_cpp against the float64 law and itself; without a GPU its kernels run on the CPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from engines import SHAPES, law, same_series
from test_engine_cuda import DEVICE, GPU, tiny_copy
from test_sampler import CASES, N_SERIES, ONE_TOKEN, case, partly_known, request
from tiny_models import smooth_series, tiny_config, tiny_model, tiny_network

from tsgen import native, sampler
from tsgen.config import SamplingConfig
from tsgen.engine_cpu import CpuEngine, folded
from tsgen.engine_cuda_cpp import CudaCppEngine
from tsgen.engine_torch import TorchEngine
from tsgen.errors import ArgumentError, RunError
from tsgen.sampler import Sampler

EVERY = [(name, some_known) for name in CASES for some_known in (False, True)]
# with every part of it, where a thread is a fiber
FEW = [("flat", False), ("both, hot, guided", True), ("one band", True), ("no classes", False)]

try:
    if not (GPU or native.on_cpu("cuda")):
        pytest.skip("no GPU, and its kernels are not built for CPUs", allow_module_level=True)
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.mark.parametrize(("name", "some_known"), EVERY if GPU else FEW)
def test_draws_the_tokens_of_the_float64_law(name, some_known):
    network, asked, settings, exact = law(name, some_known)
    rows = np.arange(N_SERIES if GPU else 8)
    mine = CudaCppEngine(tiny_copy(network)).tokens(asked.at(rows), settings)
    same = same_series([ids[torch.from_numpy(rows)] for ids in exact], mine)
    assert same >= 0.995 * len(rows), f"{same} of {len(rows)}"


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_decodes_and_encodes_as_the_tokenizer_does(sizes):
    network = tiny_network(tiny_config(**sizes))
    rng = torch.Generator().manual_seed(0)
    ids = [
        torch.randint(0, prior.n_codes, (17, prior.n_tokens), generator=rng)
        for prior in network.each_prior()
    ]
    size = network.config.tokenizer
    x = torch.randn(17, size.n_channels, size.length, generator=rng).cumsum(2)
    engine, single = CudaCppEngine(tiny_copy(network)), TorchEngine(network).series(ids)
    got, found = engine.series(ids), engine.encode(x)
    wanted = TorchEngine(network.double()).series(ids)
    # random weights make an error grow from layer to layer: it may grow as much as PyTorch's does
    error, usual = (float((y - wanted).abs().amax()) for y in (got, single))
    assert error <= 4 * usual + 1e-6
    for mine, exact in zip(found, network.tokenizer.encode(x.double()), strict=True):
        assert (mine == exact).double().mean() >= 0.99


@pytest.mark.parametrize("prior", [{"head_dim": 72}, {"head_dim": 3, "n_layers": 1}], ids=str)
def test_heads_of_any_width(prior):
    network = tiny_network(tiny_config(prior=prior))
    asked, how = request([i % 4 for i in range(12)]), SamplingConfig((2, 1), guidance=1.5)
    exact = TorchEngine(network.double()).tokens(asked, how)
    mine = CudaCppEngine(tiny_copy(network)).tokens(asked, how)
    assert same_series(exact, mine) == 12


class TestASampleIsTheSame:
    """To the bit, whatever is drawn with it."""

    N = 10
    HOW = SamplingConfig((3, 2), choice_temperature=(4.0, 1.0), guidance=1.5)

    @pytest.fixture
    def engine(self):
        return CudaCppEngine(tiny_copy(case("flat")[0]))

    @pytest.fixture
    def asked(self):
        network = case("flat")[0]
        return request([i % 4 for i in range(self.N)], partly_known(network, self.N))

    def drawn(self, engine, asked):
        ids, series = engine.draw(asked, self.HOW)
        return [*ids, series]

    def test_alone_and_among_others(self, engine, asked):
        base = self.drawn(engine, asked)
        for rows in ([0], [9], [3, 8, 3]):
            for mine, whole in zip(self.drawn(engine, asked.at(np.array(rows))), base, strict=True):
                assert torch.equal(mine, whole[rows])

    def test_from_several_threads(self, engine, asked):
        base = self.drawn(engine, asked)
        with ThreadPoolExecutor(2) as pool:
            for drawn in pool.map(lambda _: self.drawn(engine, asked), range(2)):
                assert all(map(torch.equal, drawn, base))

    def test_encoded_alone(self, engine):
        x = torch.randn(20, 1, 32, generator=torch.Generator().manual_seed(1)).cumsum(2)
        whole = engine.encode(x)
        for i in (0, 7, 19):
            for mine, all_of_them in zip(engine.encode(x[i : i + 1]), whole, strict=True):
                assert torch.equal(mine[0], all_of_them[i])

    def test_in_more_calls_than_one(self):
        engine = CudaCppEngine(tiny_network(tiny_config(**ONE_TOKEN)).to(DEVICE))
        n = engine.at_once + 3
        asked, how = request([i % 4 for i in range(n)]), SamplingConfig((1, 1))
        ids, series = engine.draw(asked, how)
        rows = np.arange(n - 4, n)
        some, end = engine.draw(asked.at(rows), how)
        assert torch.equal(end, series[rows])
        for mine, whole in zip(
            [*some, *engine.encode(end)], [*ids, *engine.encode(series)], strict=True
        ):
            assert torch.equal(mine, whole[rows])


def test_agrees_with_engine_cpu():
    network, classes, settings = case("no noise")
    asked = request(classes).at(np.arange(8))
    single = tiny_copy(network)
    ids, series = CudaCppEngine(single).draw(asked, settings)
    wanted, close = CpuEngine(single.cpu()).draw(asked, settings)
    assert same_series(wanted, ids) == len(series)
    torch.testing.assert_close(series, close, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["priors.0.head_in.bias", "priors.1.places.weight"])
def test_damaged_weights_are_an_error(name):
    network = tiny_network()
    with torch.no_grad():
        network.get_parameter(name).fill_(torch.nan)
    with pytest.raises(RunError, match="model: wanted finite"):
        CudaCppEngine(network.to(DEVICE)).tokens(request([0, 1]), SamplingConfig((2, 2)))


def test_refuses_weights_that_its_configuration_does_not_have():
    network = tiny_network()
    state = network.state_dict()
    name = "tokenizer.bands.1.encoder.layers.0.depthwise.weight"
    without = {n: t for n, t in state.items() if n != name}
    with pytest.raises(ValueError, match=f"{name}: wanted a tensor, got none"):
        folded(network.config.to_dict(), without, 1, "cuda", 0)


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_is_an_engine_for_a_gpu():
    network = tiny_network().to(DEVICE)
    assert isinstance(Sampler(network, engine="cuda_cpp").engine, CudaCppEngine)


def test_says_why_it_cannot_run():
    with pytest.raises(ArgumentError, match="'cuda_cpp', which takes float32 weights on a GPU"):
        Sampler(tiny_network(), engine="cuda_cpp")


def test_a_model_encodes_by_it(monkeypatch):
    monkeypatch.setattr(CudaCppEngine, "obstacle", staticmethod(lambda network: None))
    monkeypatch.setattr(sampler, "PREFERENCE", ("cuda_cpp",))
    model = tiny_model()
    model.to(DEVICE)
    monkeypatch.setattr(model.network.tokenizer, "encode", None)  # not by PyTorch's ops
    x = smooth_series(9, *model.shape)
    ids = model.encode(x)
    mine = CudaCppEngine(model.network).encode(torch.from_numpy(model.scaler.apply(x)))
    np.testing.assert_array_equal(ids, torch.cat(mine, 1))
    np.testing.assert_array_equal(model.encode(x[4:5]), ids[4:5])
