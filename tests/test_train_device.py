"""Training on a GPU, as far as it can be seen without one.

The meta device stands for a GPU that has no numbers: whatever would wait for one raises there.
"""

import contextlib
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from stages import PRESETS, STAGES, run, take, trainer
from test_train import TINY, assert_same_weights, series
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import tsgen
from tsgen import arguments, dispatch, interpolate
from tsgen.config import AUGMENTATIONS, SslConfig
from tsgen.errors import ArgumentError
from tsgen.fitting import train_config
from tsgen.quantisers.codebook import kmeans


class TestTheDoor:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"device": "tpu"}, 'device: wanted "auto", "cpu", "cuda" or "cuda:1", got \'tpu\''),
            ({"device": "cuda:x"}, "device: wanted"),
            ({"device": "meta"}, "device: wanted"),
            ({"device": "cuda:2"}, r"device: wanted a GPU that is here \(2 are\), got 'cuda:2'"),
            ({"device": 1}, "device: wanted a name, got int"),
            ({"autocast": "float16"}, "autocast: wanted 'bfloat16' or None: gradients vanish"),
            ({"autocast": "float32"}, "autocast: wanted one of None, 'bfloat16', got 'float32'"),
            ({"autocast": True}, "autocast: wanted"),
            ({"compile": "yes"}, "compile: wanted one of False, True, got 'yes'"),
        ],
    )
    def test_refuses(self, settings, message, monkeypatch, tmp_path):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        X, _ = series()
        with pytest.raises(tsgen.TsgenError, match=message):
            tsgen.fit(X, preset=TINY, steps=1, out=tmp_path / "run", **settings)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("n_gpus", "name", "device"),
        [(0, "auto", "cpu"), (3, "auto", "cuda"), (3, "cpu", "cpu"), (3, "cuda:2", "cuda:2")],
    )
    def test_finds_the_device(self, n_gpus, name, device, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
        assert arguments.device(name) == torch.device(device)
        assert arguments.device(torch.device(device)) == torch.device(device)

    def test_says_that_there_is_no_gpu(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(ArgumentError, match=r"a GPU that is here \(0 are\), got 'cuda'"):
            train_config({"device": "cuda"})

    def test_a_run_may_go_on_elsewhere_but_not_in_other_precision(self):
        here = run().fingerprint
        assert here == run(device="auto", compile=True).fingerprint
        assert here != run(autocast="bfloat16").fingerprint


class Watch(TorchDispatchMode):
    """Refuses, of ops on the device, what a GPU would wait for or do in an order of chance."""

    RANDOM = ("rand", "normal", "bernoulli", "uniform", "multinomial", "exponential")
    COPIES = ("aten._to_copy", "aten.copy_")
    # what torch.use_deterministic_algorithms documents; index_add: see the test of distinct rows
    ATOMIC = ("upsample_linear1d_backward", "pad1d_backward", "pad2d_backward", "scatter", "put_")
    ATOMIC += ("index_put", "index_copy", "bincount", "histc", "cumsum", "grid_sampler")

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [t for t in tensors([args, kwargs]) if t.dim() or t.is_meta]
        if any(t.is_meta for t in [*given, *tensors(out)]):
            self.check(
                str(func),
                given,
                bool(kwargs.get("non_blocking")) or any(a is True for a in args[2:3]),
            )
            self.seen[str(func)] += 1
        return out

    def check(self, name: str, given: list[Tensor], non_blocking: bool) -> None:
        assert not any(word in name for word in self.RANDOM), f"{name} draws on the device"
        assert not any(word in name for word in self.ATOMIC), f"{name} adds atomically"
        alone = all(t.is_meta for t in given)
        if name.startswith(self.COPIES):
            assert alone or non_blocking, "a copy that waits"
        else:
            assert alone, f"{name} takes tensors of two devices"


def tensors(x: object) -> list[Tensor]:
    if isinstance(x, Tensor):
        return [x]
    inner = x.values() if isinstance(x, dict) else x if isinstance(x, tuple | list) else ()
    return [t for item in inner for t in tensors(item)]


@pytest.fixture
def gpu_of_no_numbers(monkeypatch):
    """Runs find the meta device, and on it the ops of a GPU. AdamW and autocast do not know it."""
    monkeypatch.setattr(arguments, "device", lambda name: torch.device("meta"))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch.optim, "AdamW", lambda *_, **__: torch.optim.SGD([torch.ones(1)]))
    monkeypatch.setitem(dispatch.PREFERENCE, "meta", ("triton", "torch"))
    dispatch._choose.cache_clear()
    yield
    dispatch._choose.cache_clear()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.usefixtures("gpu_of_no_numbers")
class TestOnADevice:
    def test_a_step_never_waits_for_it_nor_draws_on_it(self, preset):
        work = run(preset, n=120, validation=0.1)
        for band in work.network.tokenizer.each():
            band.codebook.seen_started = True
        for stage in STAGES:
            made = trainer(work, stage)
            with Watch() as watch:
                loss, _ = made.step()
            assert loss.is_meta
            assert watch.seen.total() > 100
            assert all(p.grad is not None for p in made.parameters)

    def test_validation_waits_once(self, preset):
        work = run(preset, n=120, validation=0.1)
        for stage in STAGES:
            made = trainer(work, stage)
            made.shadow.eval()
            with Watch() as watch, torch.no_grad(), pytest.raises(RuntimeError, match=r"item\(\)"):
                made.stage.validate(made.shadow)  # its one float(), at the end
            assert watch.seen.total() > 100

    def test_k_means_draws_on_the_cpu(self, preset):
        work = run(preset)
        with Watch() as watch:
            kmeans(torch.empty(50, 4, device="meta"), 60, "cosine")
        assert watch.seen.total() > 20
        with pytest.raises(RuntimeError, match=r"item\(\)"):  # it has to know whether to run
            trainer(work, "tokenizer").step()


@pytest.mark.parametrize(
    ("objective", "views", "on"), [("byol", 1, "latents"), ("vibcreg", 2, "codes")]
)
@pytest.mark.usefixtures("gpu_of_no_numbers")
def test_nor_does_a_step_of_self_supervision(objective, views, on):
    ssl = SslConfig(objective, views=views, on=on, augmentations=AUGMENTATIONS)
    work = run("base", n=120, ssl=ssl)
    for band in work.network.tokenizer.each():
        band.codebook.seen_started = True
    made = trainer(work, "tokenizer")
    with Watch() as watch:
        loss, _ = made.step()
    assert loss.is_meta
    assert watch.seen.total() > 500
    assert all(p.grad is not None for p in made.parameters)


@pytest.mark.usefixtures("gpu_of_no_numbers")
def test_nor_does_a_step_of_a_vae():
    made = trainer(run(n=120, validation=0.1, family="vae"), "vae")
    with Watch() as watch:
        loss, _ = made.step()
    assert loss.is_meta
    assert watch.seen.total() > 100
    assert all(p.grad is not None for p in made.parameters)


class Rows(TorchDispatchMode):
    """Looks at the rows that index_add adds to: one addend to zeros has one order, by atomics too,
    and so have two."""

    n_seen, most = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "index_add" in str(func):
            self.most = max(self.most, int(args[2].bincount().max()))
            self.n_seen += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("length", "n_seen", "most"), [(64, 4, 1), (61, 6, 2)])
def test_gradients_are_added_to_distinct_rows(length, n_seen, most):
    """But for places of the context that a ratio which is not whole repeats."""
    work = run(length=length)
    take(trainer(work, "tokenizer"), 1)
    with Rows() as rows:
        take(trainer(work, "prior_1"), 2)
    assert (rows.n_seen, rows.most) == (n_seen, most)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
def test_pytorch_knows_a_deterministic_form_of_every_op():
    X, y = series()
    first = tsgen.fit(X, y, preset=TINY, steps=3, device="cpu")
    assert_same_weights(first, tsgen.fit(X, y, preset=TINY, steps=3, device="cpu"))


class TestInterpolation:
    @pytest.mark.parametrize(
        ("n", "length"),
        [
            (255, 128),
            (127, 61),
            (510, 512),
            (1, 2),
            (2, 1),
            (3, 2),
            (1, 1),
            (5, 5),
            (7, 29),
            (90, 4),
        ],
    )
    def test_gathers_what_pytorch_scatters(self, n, length):
        where = interpolate.between(n, length)
        assert 0 <= where.reached_PM.min() <= where.reached_PM.max() < length
        x = torch.randn(3, 2, n, dtype=torch.float64, requires_grad=True)
        wanted = F.interpolate(x, length, mode="linear")
        ours = interpolate.gathered(x, *where)
        assert_close(ours, wanted, rtol=1e-12, atol=1e-12)
        grad = torch.randn_like(wanted)
        (mine,), (other,) = (torch.autograd.grad(y, x, grad) for y in (ours, wanted))
        assert_close(mine, other, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("preset", PRESETS)
    @pytest.mark.parametrize("length", [2, 3, 61, 1000])
    def test_a_band_holds_the_places_that_its_decoder_reaches(self, preset, length, monkeypatch):
        def checked(fine, *where):
            for held, wanted in zip(where, interpolate.between(fine.shape[2], length), strict=True):
                assert_close(held, wanted.to(held.dtype), rtol=0, atol=0)
            seen.append(len(where[0]))
            return interpolate.interpolate(fine, *where)

        seen: list[int] = []
        tokenizer = run(preset, n=2, length=length).network.tokenizer.eval()
        monkeypatch.setattr("tsgen.autoencoder.interpolate", checked)
        tokenizer.decode(tokenizer.encode(torch.randn(1, 1, length)))
        assert seen == [length, length]


def test_a_codebook_asks_until_it_has_started():
    book = run().network.tokenizer.bands[0].codebook
    assert not book.has_started()
    book.started.fill_(True)
    assert book.has_started()
    book.started = None  # not asked again
    assert book.has_started()


def test_a_codebook_asks_again_after_other_weights_came():
    book = run().network.tokenizer.bands[0].codebook
    blank = {name: tensor.clone() for name, tensor in book.state_dict().items()}
    book.start(torch.randn(50, book.config.code_dim))
    assert book.has_started()
    book.load_state_dict(blank)
    assert not book.has_started()


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter:UserWarning")
@pytest.mark.usefixtures("gpu_of_no_numbers")
def test_a_saved_state_goes_on_on_another_device():
    made = trainer(run(), "tokenizer")
    values, saved = made.state()
    for i, p in enumerate(made.parameters):
        saved |= {f"adam.{i}.step": torch.ones(()), f"adam.{i}.exp_avg": torch.ones(p.shape)}
    cpu = {k: torch.zeros(t.shape, dtype=t.dtype) for k, t in saved.items()}
    made.restore(values, cpu)
    moved = [t for p in made.parameters for t in made.optimizer.state[p].values()]
    assert len(moved) == 2 * len(made.parameters)
    assert all(t.is_meta for t in moved)


def test_a_budget_leaves_out_the_first_steps(monkeypatch):
    """A minute of compiling, then 0.1 s a step: the rest of the budget is spent at that rate."""
    made = trainer(run(minutes=10), "tokenizer")
    made.progress.total = 0
    clock = iter([60.0, 61.5])
    monkeypatch.setattr(made, "seconds", lambda: next(clock))
    for step in range(1, 21):
        made.progress.step = step
        total = made.affordable()
        assert (total == 0) == (step < 20)
    assert total == 20 + int((600 * made.stage.share - 61.5) / 0.1)
