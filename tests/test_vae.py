"""The continuous family: its bound against the definitions, and the model around it."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from test_train import TINY, assert_same_weights, series
from tiny_models import tiny_config
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

import tsgen
from tsgen import Model, ops
from tsgen.config import ModelConfig, VaeConfig
from tsgen.data import Labels, Scaler
from tsgen.errors import ArgumentError
from tsgen.network import Network
from tsgen.request import Request
from tsgen.sampler import ENGINES, Sampler
from tsgen.vae import Posterior, divergence, free, gaussian_nats

NAMES = ("bell", "cylinder", "funnel")


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def config(n_classes=3, latent_dim=5, free_bits=0.0, **sizes):
    vae = VaeConfig(latent_dim, free_bits=free_bits)
    sizes = tiny_config(n_classes=n_classes, **sizes).to_dict()
    return ModelConfig.from_dict(sizes | {"priors": [], "vae": vars(vae)})


def model(n_classes=3, **sizes):
    network = Network(config(n_classes, **sizes))
    with torch.no_grad():
        network.vae.means_YD.normal_(std=3)
        network.vae.see(torch.arange(n_classes).repeat(5))
    scaler = Scaler((10.0,) * network.vae.config.n_channels, (2.0,) * network.vae.config.n_channels)
    return Model(network, scaler, Labels(NAMES[:n_classes]) if n_classes else None)


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


class TestBound:
    def test_divergence_is_that_of_the_distributions(self):
        mean, log_variance, prior = doubles(7, 4), doubles(7, 4), doubles(7, 4)
        q, p = Normal(mean, (log_variance / 2).exp()), Normal(prior, torch.ones_like(prior))
        assert_close(divergence(mean, log_variance, prior), kl_divergence(q, p))
        assert torch.autograd.gradcheck(divergence, (mean, log_variance, prior))
        zero = torch.zeros(1, 4, dtype=torch.float64)
        assert_close(divergence(zero, zero, zero), zero)

    def test_divergence_is_the_mean_of_log_ratios_of_draws(self):
        """Kullback and Leibler's definition, by Monte Carlo: within 5 standard errors."""
        with torch.no_grad():
            mean, log_variance, prior = doubles(1, 3), doubles(1, 3), doubles(1, 3)
            z = Posterior(mean, log_variance).sample(torch.randn(200_000, 3, dtype=torch.float64))
            q, p = Normal(mean, (log_variance / 2).exp()), Normal(prior, 1.0)
            ratio = q.log_prob(z) - p.log_prob(z)
            error = (ratio.mean(0) - divergence(mean, log_variance, prior)[0]).abs()
            assert (error < 5 * ratio.std(0) / math.sqrt(len(z))).all()

    def test_reparameterisation_gives_both_their_gradients(self):
        mean, log_variance, noise = doubles(6, 2), doubles(6, 2), torch.randn(6, 2).double()
        q = mean, log_variance
        assert torch.autograd.gradcheck(lambda *q: Posterior(*q).sample(noise), q)
        assert_close(Posterior(*q).sample(noise), mean + noise * log_variance.exp().sqrt())

    def test_free_bits_are_per_dim_and_of_the_mean(self):
        kl = torch.tensor([[0.1, 2.0, 0.5], [0.3, 4.0, 0.7]], dtype=torch.float64).requires_grad_()
        assert_close(free(kl, 0.5), torch.tensor(0.5 + 3.0 + 0.6, dtype=torch.float64))
        (grad,) = torch.autograd.grad(free(kl, 0.5), kl)
        assert grad.tolist() == [[0, 0.5, 0.5]] * 2  # nothing below what is free
        assert_close(free(kl, 0.0), kl.sum(1).mean())

    def test_reconstruction_is_the_best_gaussian_that_is_wide_enough(self):
        x, mean = doubles(8, 2, 9), doubles(8, 2, 9)

        def nats(*scale):
            each = -Normal(mean, torch.tensor(scale).double()[:, None]).log_prob(x)
            return each.sum((1, 2)).mean()

        best = (x - mean).square().mean((0, 2)).sqrt().tolist()
        assert_close(gaussian_nats(x, mean, 0.1), nats(*best))
        for other in ((0.9, 1), (1.1, 1), (1, 0.9), (1, 1.1)):
            assert nats(*np.multiply(best, other)) > gaussian_nats(x, mean, 0.1)
        between = sum(best) / 2
        assert_close(gaussian_nats(x, mean, between), nats(*np.maximum(best, between)))
        for least in (between, 9.0):
            (ours,) = torch.autograd.grad(gaussian_nats(x, mean, least), mean)
            (wanted,) = torch.autograd.grad(nats(*np.maximum(best, least)), mean)
            assert_close(ours, wanted)

    @pytest.mark.parametrize("bands", [1, 2])
    def test_of_a_batch_is_the_sum_of_its_parts(self, bands):
        vae = Network(config(bands=bands, free_bits=0.25, n_channels=2)).double().vae.eval()
        x, noise = torch.randn(9, 2, 24).double(), torch.randn(9, 5).double()
        class_B = torch.arange(9) % 3
        with torch.no_grad():
            vae.means_YD.normal_()
            out = vae(x, class_B, noise)
            q = vae.encode(x)
            kl = divergence(*q, vae.means_YD[class_B])
            x_hat = vae.decode(q.mean_BD + (q.log_variance_BD / 2).exp() * noise)
        assert_close(out.x_BCL, x_hat)
        assert_close(out.parts["kl"], kl.sum(1).mean())
        nats = gaussian_nats(x, x_hat, 0.2)
        assert_close(out.parts["reconstruction"], nats)
        assert_close(out.loss, (nats + kl.mean(0).clamp_min(0.25).sum()) / (2 * 24))

    def test_gradient_reaches_every_weight(self):
        vae = Network(config()).vae.train()
        vae(torch.randn(8, 1, 24), torch.arange(8) % 3, torch.randn(8, 5)).loss.backward()
        assert all(p.grad is not None and p.grad.any() for p in vae.parameters())


class TestNormals:
    def test_are_normal_and_independent(self):
        x = ops.normals(ops.philox(3, torch.arange(2000), 10))
        assert x.shape == (2000, 20)
        assert x.dtype == torch.float64
        assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-3
        correlation = np.corrcoef(x.T.numpy())
        assert np.abs(correlation - np.eye(20)).max() < 5 / math.sqrt(2000)

    def test_are_box_and_muller_of_the_uniforms(self):
        words = ops.philox(5, torch.arange(3), 2)
        u, v = ops.uniforms(words)
        wanted = [
            [
                math.sqrt(-2 * math.log(a)) * f(2 * math.pi * b)
                for a, b in zip(us, vs, strict=True)
                for f in (math.cos, math.sin)
            ]
            for us, vs in zip(u.tolist(), v.tolist(), strict=True)
        ]
        assert_close(ops.normals(words), torch.tensor(wanted, dtype=torch.float64))


class TestDraws:
    def test_sample_i_is_the_same_in_any_batch(self):
        made = model(n_channels=2)
        labels = np.resize(NAMES, 150)
        many = made.generate(150, label=labels, seed=4)
        assert many.shape == (150, 2, 24)
        for i in (0, 63, 64, 149):
            alone = made.generate(indices=[i], label=labels[i], seed=4)
            np.testing.assert_array_equal(alone[0], many[i])
        backwards = made.generate(indices=range(149, -1, -1), label=labels[::-1], seed=4)
        np.testing.assert_array_equal(backwards[::-1], many)
        parts = np.concatenate(list(made.stream(150, label=labels, seed=4, batch_size=7)))
        np.testing.assert_array_equal(parts, many)
        assert not np.array_equal(made.generate(5, seed=5), made.generate(5, seed=4))
        loose = made.generate(150, label=labels, seed=4, strict=False)
        np.testing.assert_allclose(loose, many, rtol=1e-4, atol=1e-4)

    def test_z_is_the_mean_of_its_class_and_counted_noise(self):
        network = model(latent_dim=5).network
        request = Request(np.array([7, 2**40]), np.array([1, 2]), seed=2**64 - 1)
        how = network.config.sampling
        sampler = Sampler(network)
        (z,) = sampler.engine.tokens(request, how)
        words = ops.philox(2**64 - 1, torch.tensor([7, 2**40]), 3)
        noise = ops.normals(words)[:, :5].float()
        assert_close(z, network.vae.means_YD.detach()[[1, 2]] + noise)
        cold = model().generate(3, label="bell", temperature=0)
        assert (cold == cold[0]).all()

    def test_without_label_classes_come_as_often_as_in_training(self):
        made = model()
        made.network.vae.see(torch.tensor([0] * 6 + [2] * 2))
        u = (torch.arange(80) + 0.5) / 80
        drawn = made.network.vae.drawn_classes(torch.full((80,), 3), u.double())
        assert drawn.bincount().tolist() == [60, 0, 20]
        given, high = torch.tensor([0, 3, 1]), torch.full((3,), 0.99, dtype=torch.float64)
        assert made.network.vae.drawn_classes(given, high).tolist() == [0, 2, 1]
        made.network.vae.means_YD.data = 100.0 * torch.eye(3, 5)
        (z,) = Sampler(made.network).engine.tokens(
            Request(np.arange(400), np.full(400, 3)), made.config.sampling
        )
        shares = (z.argmax(1).bincount(minlength=3) / 400).tolist()
        assert shares == pytest.approx([0.75, 0, 0.25], abs=0.08)

    def test_without_classes(self):
        made = model(0)
        assert made.generate(3).shape == (3, 1, 24)
        with pytest.raises(ArgumentError, match="label: wanted None"):
            made.generate(3, label=0)

    def test_refuses_what_needs_tokens_and_settings_of_them(self):
        made = model()
        x = made.generate(2)
        for call in (
            lambda: made.encode(x),
            lambda: made.decode([[0] * 9]),
            lambda: made.impute(x),
            lambda: made.forecast(x, 3),
        ):
            with pytest.raises(ArgumentError, match=r"wanted a model of family 'vq', .*, got"):
                call()
        for name, value in {"steps": 3, "guidance": 2.0, "top_k": 1, "dtype": "bfloat16"}.items():
            with pytest.raises(ArgumentError, match=f"wanted only temperature: .*, got {name}"):
                made.generate(1, **{name: value})
        assert type(Sampler(made.network).engine) is ENGINES["vae"]
        for name in ("torch", "cpu", "cuda"):
            with pytest.raises(ArgumentError, match="draws tokens, and a vae has none"):
                Sampler(made.network, engine=name)


class TestFiles:
    def test_come_back_the_same(self, tmp_path):
        made = model(n_channels=2)
        made.save(tmp_path / "model")
        again = tsgen.load(tmp_path / "model")
        assert again.config == made.config
        assert again.config.family == "vae"
        assert_same_weights(made, again)
        np.testing.assert_array_equal(again.generate(5), made.generate(5))
        out = tsgen.generate(tmp_path / "model", 70, out=tmp_path / "samples", label="bell")
        with np.load(out / "samples-00000-of-00001.npz") as shard:
            np.testing.assert_array_equal(shard["X"], made.generate(70, label="bell"))

    def test_half_of_many_series_keeps_how_many_they_were(self, tmp_path):
        made = model()
        made.network.vae.counts_Y.copy_(torch.tensor([70_001.0, 1, 4097]))
        made.save(tmp_path / "half", half=True)
        assert tsgen.load(tmp_path / "half").network.vae.counts_Y.tolist() == [70_001, 1, 4097]

    def test_no_priors_are_refused_where_there_are_tokens_and_the_other_way_round(self):
        values = tiny_config().to_dict()
        with pytest.raises(ArgumentError, match="priors: wanted a tuple of 2"):
            ModelConfig.from_dict(values | {"priors": []})
        with pytest.raises(ArgumentError, match="priors: wanted a tuple of 0, one a band; none"):
            ModelConfig.from_dict(values | {"vae": {"latent_dim": 3}})
        for wrong in ({"latent_dim": 0}, {"free_bits": -1.0}, {"beta": 1.0}, 5, 0, ""):
            with pytest.raises(ArgumentError):
                ModelConfig.from_dict(values | {"priors": [], "vae": wrong})


class TestTraining:
    def test_learns_logs_and_tells_classes_apart(self, tmp_path):
        X, y = series(n=120, length=16)
        how = {
            "steps": (60, 60),
            "learning_rate": 1e-2,
            "batch_size": 32,
            "evaluations": 6,
            "out": tmp_path,
        }
        made = tsgen.fit(X, y, preset=TINY, family="vae", **how)
        log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in log] == [30, 60, 90, 120, 150, 180]  # and two bands' priors
        assert log[-1]["validation"] < log[0]["validation"] - 0.1
        assert {"reconstruction", "kl"} <= set(log[0])
        assert_same_weights(made, tsgen.load(tmp_path))
        vae, class_B = made.network.vae, torch.from_numpy(made.labels.encode(y))
        assert vae.counts_Y.tolist() == [54, 54]  # without those held out
        with torch.no_grad():
            q = vae.encode(torch.from_numpy(made.scaler.apply(X[:, None])))
            own, other = (divergence(*q, vae.prior_means(c)).sum(1) for c in (class_B, 1 - class_B))
        assert (other - own).mean() > 0.1  # nats
        assert not np.array_equal(made.generate(1, label="slow"), made.generate(1, label="fast"))

    def test_without_labels(self, tmp_path):
        X, _ = series(24, 16)
        made = tsgen.fit(X, preset=TINY, family="vae", steps=3)
        made.save(tmp_path / "model")
        again = tsgen.load(tmp_path / "model")
        assert again.labels is None
        assert_same_weights(made, again)
        drawn = again.generate(3, seed=1)
        assert drawn.shape == (3, 1, 16)
        np.testing.assert_array_equal(drawn, made.generate(3, seed=1))

    @pytest.mark.parametrize(("bands", "steps"), [(1, 5 + 3), (2, 5 + 3 + 3)])
    def test_has_as_many_steps_as_a_tokenizer_and_its_priors(self, bands, steps, tmp_path):
        X, _ = series(8, 16)
        preset = dataclasses.replace(TINY, tokenizer={"hidden_dim": 16})
        totals = {}
        for family in ("vae", "vq"):
            out = tmp_path / family
            tsgen.fit(X, preset=preset, family=family, bands=bands, steps=(5, 3), out=out)
            lines = (out / "metrics.jsonl").read_text().splitlines()
            last = {row["stage"]: row["step"] for row in map(json.loads, lines)}
            totals[family] = sum(last.values())
        assert totals == {"vae": steps, "vq": steps}

    def test_takes_batches_of_one_series(self):
        X, y = series(170, 16)  # 17 of them are held out
        made = tsgen.fit(X, y, preset=TINY, family="vae", steps=1, batch_size=16)
        alone = made.network.vae.encode(torch.zeros(1, 1, 16))
        assert alone.mean_BD.isfinite().all()

    def test_refuses_codes_and_unknown_families(self):
        X, _ = series(4)
        for how, message in (
            ({"family": "gan"}, "family: wanted one of 'vq', 'vae', got 'gan'"),
            ({"family": "vae", "codebook": "fsq"}, "codebook: wanted none for a vae"),
            ({"family": VaeConfig(), "n_codes": 8, "gradient": "rotation"}, "gradient, n_codes: "),
        ):
            with pytest.raises(ArgumentError, match=message):
                tsgen.fit(X, preset=TINY, steps=1, **how)
