"""Training in bfloat16, and compiled."""

import numpy as np
import pytest
import torch
from stages import PRESETS, STAGES, follow, run, take, trainer
from test_train import series
from torch._dynamo.utils import counters

import tsgen
from tsgen import ops
from tsgen.cli import main
from tsgen.config import SslConfig


class TestPrecision:
    @pytest.mark.parametrize("objective", ["vibcreg", "byol"])
    def test_self_supervision_in_bfloat16_is_near(self, objective):
        ssl = SslConfig(objective, projector_width=16)
        a, b = (trainer(run(ssl=ssl, autocast=low), "tokenizer") for low in (None, "bfloat16"))
        for _ in range(2):
            assert take(b, 1)[0] == pytest.approx(take(a, 1)[0], rel=0.03)
            for p in b.parameters:
                assert p.grad.dtype == torch.float32
                assert p.grad.isfinite().all()
            b.stage.module.load_state_dict(a.stage.module.state_dict())

    @pytest.mark.parametrize("preset", PRESETS)
    def test_losses_in_bfloat16_are_near_and_gradients_finite(self, preset):
        plain, low = run(preset), run(preset, autocast="bfloat16")
        for stage in STAGES:
            follow(low, plain, stage)
            a, b = trainer(plain, stage), trainer(low, stage)
            for _ in range(2):  # k-means, then a step like any other
                wanted, got = take(a, 1)[0], take(b, 1)[0]
                assert got == pytest.approx(wanted, rel=0.03)
                assert got != wanted
                for p in b.parameters:
                    assert p.grad.dtype == p.dtype == torch.float32
                    assert p.grad.isfinite().all()
                follow(low, plain, stage)
        buffers = [t for t in low.network.buffers() if t.is_floating_point()]
        assert all(t.dtype == torch.float32 and t.isfinite().all() for t in buffers)

    def test_the_head_multiplies_in_bfloat16(self):
        h_MD, weight_KD = torch.randn(9, 8), torch.randn(5, 8)
        rows_R, low = torch.arange(9), torch.bfloat16
        with torch.autocast("cpu", low):
            loss = ops.masked_cross_entropy(h_MD, weight_KD, None, rows_R, rows_R % 5)
        rounded = h_MD.to(low), weight_KD.to(low)
        wanted = ops.masked_cross_entropy(*rounded, None, rows_R, rows_R % 5)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, wanted)

    def test_validation_is_in_float32(self):
        made = trainer(run(n=120, validation=0.1, autocast="bfloat16"), "tokenizer")
        take(made, 1)
        line = made.evaluate(1.0, {})
        twin = trainer(run(n=120, validation=0.1), "tokenizer")
        twin.stage.module.load_state_dict(made.stage.module.state_dict())
        assert twin.evaluate(1.0, {})["validation"] == line["validation"]

    def test_the_command_line_passes_it_on(self, tmp_path, capsys):
        X, _ = series()
        np.save(tmp_path / "x.npy", X[:, None])
        line = f"fit {tmp_path}/x.npy --steps 1 --out {tmp_path}/%s --device cpu --autocast "
        assert main((line % "a" + "bfloat16").split()) == 0
        assert tsgen.load(tmp_path / "a").device.type == "cpu"
        assert main((line % "b" + "float16").split()) == 2
        assert "gradients vanish in float16" in capsys.readouterr().err


@pytest.fixture
def eager_compiler(monkeypatch):
    """torch.compile, but for the C++ that it writes, which takes minutes to compile."""
    whole = torch.compile

    def compiled(function, *, fullgraph, options):
        assert fullgraph
        assert options == {"fallback_random": True}
        return whole(function, fullgraph=True, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", compiled)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.usefixtures("eager_compiler")
@pytest.mark.parametrize(
    ("autocast", "near", "stages"), [(None, 1e-5, STAGES), ("bfloat16", 1e-2, ("prior_1",))]
)
def test_compiles_each_stage_whole_and_once(autocast, near, stages):
    how = {"preset": "least", "length": 16, "autocast": autocast}
    plain, compiled = run(**how), run(**how, compile=True)
    for stage in stages:
        follow(compiled, plain, stage)
        a, b = trainer(plain, stage), trainer(compiled, stage)
        for _ in range(4):
            assert take(b, 1)[0] == pytest.approx(take(a, 1)[0], rel=near)
            follow(compiled, plain, stage)
    assert counters["stats"]["unique_graphs"] == len(stages)
    assert not counters["graph_break"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.usefixtures("eager_compiler")
def test_compiles_self_supervision_whole_and_once():
    """Two views, quantised, and a slow target: more does not go into one graph."""
    ssl = SslConfig("byol", views=2, on="codes", projector_width=8)
    how = {"preset": "one band", "length": 16, "ssl": ssl}
    a, b = trainer(run(**how), "tokenizer"), trainer(run(**how, compile=True), "tokenizer")
    assert take(b, 4) == pytest.approx(take(a, 4), rel=1e-5)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.usefixtures("eager_compiler")
def test_compiles_a_vae_whole_and_once():
    how = {"preset": "least", "length": 16, "family": "vae"}
    plain, compiled = run(**how), run(**how, compile=True)
    a, b = trainer(plain, "vae"), trainer(compiled, "vae")
    for _ in range(3):
        assert take(b, 1)[0] == pytest.approx(take(a, 1)[0], rel=1e-5)
        compiled.network.load_state_dict(plain.network.state_dict())
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
