"""Engine cuda against the float64 law and itself; without a GPU the same ops run uncaptured."""

import contextlib
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from engines import SHAPES, law, same_series
from test_sampler import CASES, N_SERIES, case, partly_known, request
from tiny_models import tiny_config, tiny_model, tiny_network
from torch.utils._python_dispatch import TorchDispatchMode

from tsgen import dispatch, sampler
from tsgen.config import SamplingConfig
from tsgen.engine_cuda import CudaEngine, bucket, inputs
from tsgen.engine_torch import TorchEngine
from tsgen.errors import ArgumentError, RunError
from tsgen.network import Network
from tsgen.replay import Replay, Replays
from tsgen.request import Request

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
INTERPRETED = not GPU and dispatch.FORCED == "triton"  # kernels, slowly: see `make interpret`
HOW = SamplingConfig((2, 2) if INTERPRETED else (5, 5), choice_temperature=(4.0, 1.0))


def on_device(ids: list[torch.Tensor]) -> list[torch.Tensor]:
    return [t.to("cpu") for t in ids]


def drawn(engine: CudaEngine, asked: Request, settings: SamplingConfig) -> list[torch.Tensor]:
    return on_device(engine.tokens(asked, settings))


def test_draws_the_tokens_of_the_float64_law():
    same = total = 0
    for name in CASES if GPU else ("10 steps", "top-p", "flat"):  # below they all run in float64
        for some_known in (False, True):
            network, asked, settings, exact = law(name, some_known)
            engine = CudaEngine(tiny_copy(network))
            same += same_series(exact, drawn(engine, asked, settings))
            total += N_SERIES
    assert same >= 0.999 * total, f"{same} of {total}"


def tiny_copy(network: Network) -> Network:
    """The same weights in float32, where the engine's kernels are."""
    copy = Network(network.config)
    copy.load_state_dict(network.state_dict())
    return copy.eval().to(DEVICE)


@pytest.mark.skipif(GPU, reason="no kernel takes float64")
@pytest.mark.parametrize("name", CASES)
def test_in_float64_every_token_is_the_law_s(name):
    for some_known in (False, True):
        network, asked, settings, exact = law(name, some_known)
        rows = np.arange(0, N_SERIES, 4)  # every number of known tokens is among them
        ids = drawn(CudaEngine(network), asked.at(rows), settings)
        assert same_series([ids_BN[rows] for ids_BN in exact], ids) == len(rows)


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_decodes_as_the_tokenizer_does(sizes):
    network = tiny_network(tiny_config(**sizes))
    rng = torch.Generator().manual_seed(0)
    ids = [
        torch.randint(0, prior.n_codes, (37, prior.n_tokens), generator=rng)
        for prior in network.each_prior()
    ]
    single = TorchEngine(network).series(ids)
    wanted = TorchEngine(network.double()).series(ids)
    got = CudaEngine(network.float().to(DEVICE)).series([t.to(DEVICE) for t in ids]).cpu()
    error, usual = (float((x - wanted).abs().amax()) for x in (got, single))
    assert error <= 4 * usual + 1e-6


@pytest.fixture(scope="module")
def engine():
    return CudaEngine(tiny_network(length=32, n_codes=(12, 20)).to(DEVICE))


@pytest.fixture(scope="module")
def asked():
    return request([i % 4 for i in range(6 if INTERPRETED else 150)])


@pytest.fixture(scope="module")
def base(engine, asked):
    ids, series = engine.draw(asked, HOW)
    return [*on_device(ids), series.cpu()]


class TestSameToTheBit:
    """Whatever is drawn together: graphs of any size, in any parts."""

    def test_alone_and_among_others(self, engine, asked, base):
        if not GPU and not INTERPRETED:
            pytest.skip("PyTorch's products depend on their size; the kernels' do not")
        n = len(asked.index_B)
        for rows in ([n - 1, 3], [0], list(range(n // 4, n // 2)), list(range(n))[::-1])[: n // 2]:
            ids, series = engine.draw(asked.at(np.array(rows)), HOW)
            for mine, wanted in zip([*on_device(ids), series.cpu()], base, strict=True):
                assert torch.equal(mine, wanted[rows])

    def test_as_plain_pytorch_has_it(self, asked, base, monkeypatch):
        monkeypatch.setattr(dispatch, "FORCED", "torch")
        plain = TorchEngine(tiny_network(length=32, n_codes=(12, 20)))
        ids, series = plain.draw(asked, HOW)
        pairs = zip(torch.cat(ids, 1), torch.cat(base[:2], 1), strict=True)
        alike = [torch.equal(a, b) for a, b in pairs]
        assert sum(alike) >= 0.98 * len(alike)
        torch.testing.assert_close(base[2][alike], series[alike], rtol=1e-4, atol=1e-4)

    def test_replayed_for_another_seed_and_back(self, engine, asked, base):
        other = request([i % 4 for i in range(150)], seed=1)
        graphs = len(engine.replays.made)
        assert not torch.equal(drawn(engine, other, HOW)[0], base[0])
        assert torch.equal(drawn(engine, asked, HOW)[0], base[0])
        assert len(engine.replays.made) <= graphs + 1

    def test_from_several_threads(self, engine, asked, base):
        def some(first: int) -> torch.Tensor:
            rows = np.arange(first, first + 30)
            stream = torch.cuda.Stream() if GPU else None
            with torch.cuda.stream(stream):
                return drawn(engine, asked.at(rows), HOW)[0]

        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(some, range(0, 150, 30)))
        assert torch.equal(torch.cat(parts), base[0])

    def test_under_inference_mode_and_after_it(self, asked, base):
        engine = CudaEngine(tiny_network(length=32, n_codes=(12, 20)).to(DEVICE))
        with torch.inference_mode():
            assert torch.equal(drawn(engine, asked, HOW)[0], base[0])
        assert torch.equal(drawn(engine, asked, HOW)[0], base[0])

    def test_under_autocast_as_without(self, asked, base):
        engine = CudaEngine(tiny_network(length=32, n_codes=(12, 20)).to(DEVICE))
        with torch.autocast(DEVICE, torch.bfloat16):
            series = engine.draw(asked, HOW)[1]
        assert torch.equal(series, engine.draw(asked, HOW)[1])
        torch.testing.assert_close(series.cpu(), base[2])

    def test_a_network_changed_later_changes_nothing(self, asked, base):
        network = tiny_network(length=32, n_codes=(12, 20)).to(DEVICE)
        engine = CudaEngine(network)
        with torch.no_grad():
            for t in [*network.parameters(), *network.buffers()]:
                t.zero_()
        assert torch.equal(drawn(engine, asked, HOW)[0], base[0])
        torch.testing.assert_close(engine.draw(asked, HOW)[1].cpu(), base[2])

    def test_what_did_not_fit_is_gone_before_it_is_tried_again(self, asked, monkeypatch):
        engine = CudaEngine(tiny_network(length=32, n_codes=(12, 20)).to(DEVICE))
        real, held = engine.drawn, []

        def short(*args: object) -> list[torch.Tensor]:
            assert not any(t() is not None for t in held)
            out = real(*args)
            if len(args[-1][0]) > 40:
                held.append(weakref.ref(out[0]))
                raise RuntimeError("CUDA error: out of memory")  # as some of its calls say it
            return out

        monkeypatch.setattr(engine, "drawn", short)
        gc.disable()
        try:
            engine.draw(asked, HOW)
        finally:
            gc.enable()
        assert len(held) == 2

    def test_in_halves_where_memory_does_not_hold_all(self, asked, base, monkeypatch):
        engine = CudaEngine(tiny_network(length=32, n_codes=(12, 20)).to(DEVICE))
        real, sizes = engine.drawn, []

        def short(*args: object) -> list[torch.Tensor]:
            n = len(args[-1][0])
            if n > 40:
                raise torch.OutOfMemoryError("no more")
            sizes.append(n)
            return real(*args)

        monkeypatch.setattr(engine, "drawn", short)
        ids, series = engine.draw(asked, HOW)
        assert max(sizes) <= 40
        assert engine.limit == 37  # 150 halved twice
        assert same_series(on_device(ids), base[:2]) == 150
        torch.testing.assert_close(series.cpu(), base[2])

    def test_one_sample_that_does_not_fit_is_an_error(self, asked, monkeypatch):
        engine = CudaEngine(tiny_network(length=32, n_codes=(12, 20)).to(DEVICE))

        def none(*args: object) -> list[torch.Tensor]:
            raise torch.OutOfMemoryError("no more")

        monkeypatch.setattr(engine, "drawn", none)
        with pytest.raises(torch.OutOfMemoryError):
            engine.draw(asked, HOW)


class Waits(TorchDispatchMode):
    """Refuses what would make the host wait for the device, or the device for the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        assert name not in {"_local_scalar_dense", "nonzero", "masked_select", "lift_fresh"}, name
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("alignment", ["time", "flat"])
def test_nothing_that_is_captured_waits(alignment):
    """Twice, as a capture does after its warm-up."""
    network = tiny_network(length=32, n_codes=(12, 20), band_alignment=alignment).to(DEVICE)
    engine, how = CudaEngine(network), SamplingConfig((5, 5), guidance=1.5, top_k=7)
    priors = engine.fused(None)
    for known in (None, partly_known(network, 4)):
        given = [
            t.to(DEVICE)
            for t in inputs(request([0, 1, 2, 3], known), network.config.tokenizer, how)
        ]
        for mode in (contextlib.nullcontext(), Waits()):
            with torch.no_grad(), mode:
                engine.drawn(priors, how, known is not None, True, given)


def test_half_precision_follows_about_the_same_law():
    network, asked, settings, exact = law("10 steps", False)
    engine = CudaEngine(tiny_copy(network))
    for dtype in ("bfloat16", "float16"):
        how = SamplingConfig(settings.steps, dtype=dtype, choice_temperature=(4.0, 1.0))
        if dispatch.INTERPRETED:
            pytest.skip("the interpreter takes the raw bits of bfloat16 for numbers")
        same = same_series(exact, drawn(engine, asked, how))
        assert same > 0.3 * N_SERIES  # rounding moves some choices over an edge
        counts = [
            torch.bincount(ids[1].flatten(), minlength=20).double()
            for ids in (exact, drawn(engine, asked, how))
        ]
        assert (counts[0] - counts[1]).abs().sum() < 0.1 * counts[0].sum()


@pytest.mark.parametrize("name", ["priors.0.head_in.bias", "priors.1.places.weight"])
def test_damaged_weights_are_an_error(name):
    network = tiny_network()
    with torch.no_grad():
        network.get_parameter(name).fill_(torch.nan)
    with pytest.raises(RunError, match="model: wanted finite"):
        CudaEngine(network.to(DEVICE)).tokens(request([0, 1]), HOW)


def test_refuses_ids_that_are_not_there():
    network, _, settings = case("10 steps")
    engine = CudaEngine(tiny_copy(network))
    with pytest.raises(ArgumentError, match="class_B: wanted ids from 0 to 3, got 0 to 4"):
        engine.tokens(request([0, 4]), settings)
    known = partly_known(network, 2)
    known[1][0, 0] = 21
    with pytest.raises(ArgumentError, match="known: wanted ids from 0 to 20"):
        engine.tokens(request([0, 1], known), settings)
    ids = engine.tokens(request([0, 1]), settings)
    ids[0][0, 0] = 12
    with pytest.raises(ArgumentError, match="ids: wanted ids from 0 to 11"):
        engine.series(ids)


class TestAsAnEngine:
    def test_says_why_it_cannot_run(self):
        with pytest.raises(ArgumentError, match="'cuda', which takes weights on a GPU"):
            sampler.Sampler(tiny_network(), engine="cuda")

    def test_other_engines_refuse_a_dtype_that_is_not_the_weights(self):
        model = tiny_model()
        with pytest.raises(ArgumentError, match="dtype: wanted None or 'float32', got 'bfloat16'"):
            model.generate(2, dtype="bfloat16")
        with pytest.raises(ArgumentError, match="dtype: wanted one of None, 'float32'"):
            model.generate(2, dtype="int8")
        np.testing.assert_array_equal(model.generate(2, dtype="float32"), model.generate(2))

    @pytest.mark.skipif(not GPU, reason="needs a GPU")
    def test_is_what_auto_takes_on_a_gpu(self):
        model = tiny_model().to("cuda")
        assert isinstance(sampler.Sampler(model.network).engine, CudaEngine)
        assert model.generate(3).shape == (3, 1, 24)


def test_buckets_hold_what_they_are_for():
    assert [bucket(n) for n in (1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 97)] == [
        *(1, 2, 3, 4, 6, 6, 8, 12, 12, 16, 128)
    ]
    assert all(n <= bucket(n) < 1.5 * n + 1 for n in range(1, 3000))


def test_memory_of_graphs_is_bounded():
    def make(rows: int) -> Replay:
        return Replay(lambda given: [given[0] + 1], [torch.zeros(rows, 4, device=DEVICE)])

    replays = Replays(lambda: 100 if GPU else 2000)
    small, large = replays.get("small", lambda: make(3)), replays.get("large", lambda: make(70))
    assert list(replays.made) == ["large"]  # 64 bytes a row: the older one had to go
    assert replays.get("large", lambda: make(1)) is large
    for replay, rows in ((small, 3), (large, 70)):  # who still holds one may go on
        out = replay([torch.full((2, 4), float(rows))])
        assert torch.equal(out[0].cpu(), torch.full((2, 4), rows + 1.0))
    replays.clear()
    assert replays.n_bytes() == 0
