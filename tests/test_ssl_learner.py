"""Stage 1 with self-supervision: what it changes, what it leaves alone, and how it resumes."""

import copy
import json

import numpy as np
import pytest
import torch
from stages import run, take, trainer
from test_train import TINY, assert_same_weights, lines, series
from torch.testing import assert_close

import tsgen
from tsgen import ops
from tsgen.augment.values import Jitter
from tsgen.cli import main
from tsgen.config import OBJECTIVES, SslConfig
from tsgen.errors import ArgumentError, ArgumentTypeError
from tsgen.fitting import train_config
from tsgen.ssl.heads import before_codes, unit
from tsgen.ssl.learner import Learner
from tsgen.train import seeded

SLOW = SslConfig("byol", projector_width=16)
SMALL = {"preset": "least", "length": 16}


def learner(**settings) -> Learner:
    """One whose codebooks have started."""
    ssl = SslConfig(**{"projector_width": 16} | settings)
    made = trainer(run(**SMALL, ssl=ssl), "tokenizer")
    take(made, 1)
    made.stage.module.zero_grad()
    assert isinstance(made.stage.module, Learner)
    return made.stage.module


def batch(n: int = 12) -> torch.Tensor:
    return torch.from_numpy(series(n, SMALL["length"])[0][:, None])


def views(of: Learner, x: torch.Tensor) -> list[torch.Tensor]:
    return of.views(x, torch.arange(len(x)))


def forward(module: torch.nn.Module, *inputs: torch.Tensor):
    """With the same dropout each time."""
    with seeded(0, "forward"):
        return module(*inputs)


@pytest.mark.parametrize("on", ["latents", "codes"])
@pytest.mark.parametrize("objective", ["barlow_twins", "byol"])
def test_with_no_weight_nothing_is_learned_from_it(objective, on):
    """Not a bit: the same batches, weights at the start, dropout, codes and averages."""
    ssl = SslConfig(objective, weight=0.0, projector_width=16, on=on)
    taught, plain = (trainer(run(**SMALL, ssl=how), "tokenizer") for how in (ssl, None))
    assert take(taught, 4) == take(plain, 4)
    weights = taught.stage.module.tokenizer.state_dict()
    for name, tensor in plain.stage.module.state_dict().items():
        assert torch.equal(weights[name], tensor), name


@pytest.mark.parametrize(("n_views", "on"), [(1, "latents"), (2, "codes")])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_reaches_every_encoder_and_never_a_target(objective, n_views, on):
    made = learner(objective=objective, views=n_views, on=on)
    without = copy.deepcopy(made)
    without.weight = 0.0
    x = batch()
    augmented = views(made, x)
    for module in (made, without):
        forward(module, x, *augmented).loss.backward()
    slow = [] if made.target is None else list(made.target.parameters())
    assert bool(slow) == (objective == "byol")
    assert not any(p.requires_grad or p.grad is not None for p in slow)
    assert all(p.grad is not None for p in made.parameters() if p.requires_grad)
    for mine, other in zip(made.encoders(), without.encoders(), strict=True):
        moved = [
            (p.grad - q.grad).norm()
            for p, q in zip(mine.parameters(), other.parameters(), strict=True)
        ]
        assert torch.stack(moved).norm() > 1e-3
    for band, other in zip(made.tokenizer.each(), without.tokenizer.each(), strict=True):
        for p, q in zip(band.decoder.parameters(), other.decoder.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)


@pytest.mark.parametrize("on", ["latents", "codes"])
@pytest.mark.parametrize("n_views", [1, 2])
def test_tokens_are_learned_from_the_series_alone(n_views, on):
    """Views leave no trace in the averages of the norms, nor in the codebooks."""
    made, plain = learner(views=n_views, on=on), learner()
    plain.load_state_dict(made.state_dict())
    x = batch()
    forward(made, x, *views(made, x))
    forward(plain.tokenizer, x)
    buffers = dict(plain.tokenizer.named_buffers())
    assert any("running_mean" in name for name in buffers)
    for name, buffer in made.tokenizer.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    assert all(band.codebook.training for band in made.tokenizer.each())


def test_views_are_normalised_by_their_own_statistics():
    made, x = learner(), batch()
    (far,) = (10 * view + 3 for view in views(made, x))
    with seeded(0, "a"):
        alone = made.latents(far)
    with seeded(0, "a"):
        beside = [
            band.latents(made.tokenizer.prepare(far), made.tokenizer.window_W)
            for band in made.tokenizer.each()
        ]
    assert all(map(torch.equal, alone, beside))


def test_codes_of_a_view_are_the_codes_that_it_would_have():
    made = learner(views=2, on="codes").eval()
    x = batch()
    wanted = [
        made.tokenizer.bands[b].codebook.decode(ids)
        for b, ids in enumerate(made.tokenizer.encode(x))
    ]
    got = made.quantised(made.latents(x))
    for a, b in zip(got, wanted, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-5)


class TestViews:
    def test_of_a_series_are_the_same_in_any_batch(self):
        made, x = learner(views=2), batch()
        order = torch.tensor([7, 2, 9])
        with seeded(3, "tokenizer", 5):
            together = made.views(x, torch.arange(len(x)))
        with seeded(3, "tokenizer", 5):
            apart = made.views(x[order], order)
        for a, b in zip(together, apart, strict=True):
            assert torch.equal(a[order], b)

    def test_differ_from_step_to_step_and_from_each_other(self):
        made, x = learner(views=2), batch()
        with seeded(3, "tokenizer", 5):
            a, b = made.views(x, torch.arange(len(x)))
        with seeded(3, "tokenizer", 6):
            c, _ = made.views(x, torch.arange(len(x)))
        for one, other in ((a, b), (a, c), (a, x)):
            assert (one != other).any(dim=(1, 2)).all()


@pytest.mark.parametrize("on", ["latents", "codes"])
def test_training_moves_the_target_by_its_momentum(on):
    ssl = SslConfig("byol", momentum=0.9, projector_width=16, on=on)
    made = trainer(run(**SMALL, ssl=ssl), "tokenizer")
    learner = made.stage.module
    trained = dict(learner.named_parameters())
    parts = {"encoders": "encoder", "projections": "codebook"}

    def online(name: str) -> torch.Tensor:
        part, _, rest = name.partition(".")
        if part == "projector":
            return trained[f"objective.{name}"]
        band, _, rest = rest.partition(".")
        return trained[f"tokenizer.bands.{band}.{parts[part]}.{rest}"]

    wanted = {name: p.clone() for name, p in learner.target.named_parameters()}
    for _ in range(3):
        wanted = {name: 0.9 * p + 0.1 * online(name).detach() for name, p in wanted.items()}
        take(made, 1)
    for name, p in learner.target.named_parameters():
        assert_close(p, wanted[name])
    behind = [not torch.equal(p, online(name)) for name, p in wanted.items()]
    assert sum(behind) > len(behind) / 2
    assert any("project_out" in name for name in wanted) == (on == "codes")


def test_heads_do_not_shorten_the_steps_of_the_tokenizer():
    """Each is clipped by its own norm."""
    clip = 1e-4
    made = trainer(run(**SMALL, clip=clip, ssl=SslConfig("byol", projector_width=16)), "tokenizer")
    take(made, 1)
    learner = made.stage.module
    kept = list(learner.tokenizer.parameters())
    heads = list(learner.objective.parameters())
    for part in (kept, heads):
        norm = torch.stack([p.grad.norm() for p in part if p.grad is not None]).norm()
        assert float(norm) == pytest.approx(clip, rel=0.01)


def test_a_target_has_the_projection_that_the_first_batch_scales():
    ssl = SslConfig("byol", projector_width=16, on="codes")
    made = trainer(run("fsq", length=16, ssl=ssl), "tokenizer")
    take(made, 1)
    learner = made.stage.module
    for mine, theirs in zip(learner.target.projections, learner.projections(), strict=True):
        apart = (mine.project_in.weight - theirs.project_in.weight).norm()
        assert 0 < apart < 0.05 * theirs.project_in.weight.norm()  # one step of the optimizer


def test_views_on_codes_are_compared_in_one_space():
    """What is left between before and after quantisation is the rounding to a code."""
    made, x = learner(on="codes").eval(), batch()
    latents = made.latents(x)
    before, after = before_codes(latents, made.projections()), made.quantised(latents)
    for quantiser, z_BND, a_BND, b_BND in zip(
        made.projections(), latents, before, after, strict=True
    ):
        down = quantiser.down(z_BND, unit=True)
        rounding = quantiser.codes()[ops.nearest_code(down, quantiser.codes()).ids_N] - down
        apart = rounding @ quantiser.project_out.weight.T
        assert_close((b_BND - a_BND).flatten(0, 1), apart, rtol=1e-3, atol=1e-5)


def test_features_are_of_what_the_codebook_sees():
    made, x = learner(), batch()
    out = forward(made.tokenizer, x)
    features = forward(made, x, *views(made, x)).features_BF
    wanted = torch.cat([z.mean(1) for z in unit(out.latents)], 1)
    assert_close(features, wanted)


@pytest.mark.parametrize(
    "ssl", [SLOW, SslConfig("vibcreg", projector_width=16, on="codes", views=2)]
)
def test_a_restored_state_takes_the_very_same_steps(ssl):
    whole, first = (trainer(run(**SMALL, ssl=ssl), "tokenizer") for _ in range(2))
    take(whole, 6)
    take(first, 3)
    values, tensors = first.state()
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    second = trainer(run(**SMALL, ssl=ssl), "tokenizer")
    second.restore(json.loads(json.dumps(values)), saved)
    assert second.progress.step == 3
    take(second, 3)
    a, b = whole.stage.module.state_dict(), second.stage.module.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


class TestFit:
    def test_reports_and_leaves_nothing_in_the_model(self, tmp_path):
        X, y = series(120)
        how = {"preset": TINY, "steps": (4, 1), "evaluations": 2}
        model = tsgen.fit(X, y, ssl=SLOW, out=tmp_path / "run", **how)
        plain = tsgen.fit(X, y, **how)
        loaded = tsgen.load(tmp_path / "run")
        assert_same_weights(model, loaded)
        assert list(model.network.state_dict()) == list(plain.network.state_dict())
        assert any(
            not torch.equal(a, plain.network.state_dict()[name])
            for name, a in model.network.state_dict().items()
        )
        rows = [row for row in lines(tmp_path / "run") if row["stage"] == "tokenizer"]
        assert [row["step"] for row in rows] == [2, 4]
        for row in rows:
            assert row["feature_std"] > 0
            assert 1 <= row["feature_rank"] <= 63
            assert {"ssl", "embedding_std", "embedding_rank", "perplexity_0", "validation"} <= set(
                row
            )

    def test_a_run_only_goes_on_with_the_same_objective(self, tmp_path):
        X, _ = series()
        tsgen.fit(X, preset=TINY, steps=1, out=tmp_path, ssl="simsiam")
        with pytest.raises(ArgumentError, match="resume: wanted the data and settings"):
            tsgen.fit(X, preset=TINY, steps=1, out=tmp_path, resume=True)

    def test_names_and_settings_are_one(self):
        assert train_config({"ssl": "byol"}).ssl == SslConfig("byol")
        assert train_config({"ssl": None}).ssl is None
        with pytest.raises(ArgumentError, match="objective: wanted one of"):
            train_config({"ssl": "dino"})
        with pytest.raises(ArgumentTypeError, match="ssl: wanted a name of an objective"):
            train_config({"ssl": 1})
        with pytest.raises(ArgumentError, match="batch_size: wanted a whole number from 2"):
            train_config({"ssl": "byol", "batch_size": 1})
        with pytest.raises(ArgumentError, match="augmentations: wanted one of"):
            SslConfig(augmentations=(Jitter,))

    def test_the_command_line_passes_it_on(self, tmp_path, capsys):
        X, _ = series()
        np.save(tmp_path / "x.npy", X[:, None])
        line = f"fit {tmp_path}/x.npy --steps 1 --device cpu --out {tmp_path}/%s --ssl "
        assert main((line % "a" + "barlow_twins --augment slope slice_shuffle").split()) == 0
        assert lines(tmp_path / "a")[0]["ssl"] > 0
        with pytest.raises(SystemExit):
            main((line % "b" + "dino").split())
        assert main(f"fit {tmp_path}/x.npy --out {tmp_path}/c --augment slope".split()) == 2
        assert "--ssl" in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["fsq", "residual"])
@pytest.mark.parametrize("n_views", [1, 2])
def test_any_quantiser_can_be_taught(preset, n_views):
    ssl = SslConfig("vibcreg", projector_width=16, views=n_views, on="codes")
    made = trainer(run(preset, length=16, ssl=ssl), "tokenizer")
    assert all(np.isfinite(take(made, 3)))


def test_a_vae_is_not_taught():
    X, _ = series()
    with pytest.raises(ArgumentError, match="ssl: wanted None for a vae"):
        tsgen.fit(X, preset=TINY, steps=1, family="vae", ssl="byol")
