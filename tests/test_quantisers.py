"""FSQ and residual codes: against their papers, and through a model."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_train import TINY, assert_same_weights, series
from tiny_models import smooth_series, tiny_config, tiny_model, tiny_network
from torch.testing import assert_close

import tsgen
from tsgen import ops
from tsgen.config import PRESETS, Preset, PriorConfig, TokenizerConfig
from tsgen.errors import ArgumentError, FileError
from tsgen.fitting import LEVELS, model_config
from tsgen.quantisers import quantiser
from tsgen.quantisers.codebook import kmeans
from tsgen.quantisers.fsq import EPSILON, grid
from tsgen.quantisers.residual import Residual
from tsgen.sampler import ENGINES, Sampler

FSQ_SIZES = {"n_codes": (60, 60), "tokenizer": {"codebook": "fsq", "levels": (5, 4, 3)}}
FSQ_SIZES["tokenizer"]["code_dim"] = 3
RESIDUAL_SIZES = {"tokenizer": {"codebook": "residual", "n_quantisers": 3}}
pytestmark = pytest.mark.usefixtures("same_numbers")
SIZES = pytest.mark.parametrize("sizes", [FSQ_SIZES, RESIDUAL_SIZES], ids=["fsq", "residual"])


def of_dims(D=3, **sizes):
    """In training and in float64, with latents of D dims and projections that change nothing."""
    how = {"n_channels": 1, "length": 16, "hidden_dim": D, "code_dim": D}
    book = quantiser(TokenizerConfig(**how | sizes), 0).double().train()
    with torch.no_grad():
        for layer in (book.project_in, book.project_out):
            layer.weight.copy_(torch.eye(D))
            layer.bias.zero_()
    return book


def latents(n, D=3):
    return torch.randn(1, n, D, dtype=torch.float64)


def rounded(x_MD, levels):
    """FSQ as the paper's listing has it, artanh for tan, one number at a time in Python."""
    out = []
    for row in x_MD.tolist():
        numbers = []
        for x, n in zip(row, levels, strict=True):
            half, offset = (n - 1) * (1 - EPSILON) / 2, 0.5 if n % 2 == 0 else 0.0
            bound = math.tanh(x + math.atanh(offset / half)) * half - offset
            numbers.append((round(bound), n // 2))
        out.append(numbers)
    return out


class TestFSQ:
    LEVELS = (8, 5, 4, 3)

    def book(self):
        sizes = {"codebook": "fsq", "levels": self.LEVELS, "n_codes": (math.prod(self.LEVELS),) * 2}
        out = of_dims(4, **sizes)
        out.started.fill_(True)
        return out

    def test_rounds_as_the_paper_does(self):
        book, z = self.book(), 2 * latents(300, 4)
        out = book(z)
        wanted = rounded(z[0], self.LEVELS)
        values = [[level / half for level, half in row] for row in wanted]
        assert_close(out.z_BND[0].detach(), torch.tensor(values, dtype=torch.float64))
        radix = [1, *itertools.accumulate(self.LEVELS[:-1], int.__mul__)]
        ids = [
            sum((level + half) * r for (level, half), r in zip(row, radix, strict=True))
            for row in wanted
        ]
        assert out.ids_BN[0].tolist() == ids
        assert torch.equal(out.counts_K, out.ids_BN[0].bincount(minlength=len(out.counts_K)))
        assert torch.equal(book.eval().encode(z), out.ids_BN)
        assert_close(book.decode(out.ids_BN), out.z_BND.detach())

    def test_zero_stays_zero_and_every_level_can_be_reached(self):
        book = self.book()
        assert_close(book.down(latents(1, 4) * 0), torch.zeros(1, 4, dtype=torch.float64))
        line = torch.linspace(-9, 9, 2000, dtype=torch.float64)[None, :, None].expand(1, -1, 4)
        found = book.codes()[book.encode(line)[0]]
        assert [len(found[:, d].unique()) for d in range(4)] == list(self.LEVELS)

    def test_codes_are_the_whole_grid(self):
        codes = grid((3, 4))
        assert codes.shape == (12, 2)
        assert codes[:4].tolist() == [[-1, -1], [0, -1], [1, -1], [-1, -0.5]]
        assert len(codes.unique(dim=0)) == 12
        sizes = {"codebook": "fsq", "levels": (64,) * 4, "code_dim": 4}
        with torch.device("meta"):  # where sizes are found out before there is memory for them
            huge = quantiser(tiny_config(n_codes=(2**24,) * 2, tokenizer=sizes).tokenizer, 0)
        assert huge.codes_KD.shape == (2**24, 4)

    @pytest.mark.parametrize("levels", [(64, 64), (63, 64), (3, 64, 63)])
    def test_in_float32_the_nearest_code_is_found_by_rounding(self, levels):
        D, codes = len(levels), grid(levels)
        x = 2 * torch.rand(5000, D) - 1
        half = torch.tensor(levels).double() // 2
        place = (x.double() * half).clamp_max((torch.tensor(levels) - 1 - half).double())
        radix = torch.tensor([math.prod(levels[:d]) for d in range(D)])
        wanted = ((place.round() + half).long() * radix).sum(1)
        clear = ((place - place.floor() - 0.5).abs() > 1e-3).all(1)  # not as good as a tie
        assert clear.sum() > 4900
        assert torch.equal(ops.nearest_code(x, codes).ids_N[clear], wanted[clear])

    def test_gradient_is_that_of_the_bound(self):
        book, z = self.book(), latents(20, 4).requires_grad_()
        grad = torch.randn_like(z)
        (got,) = torch.autograd.grad(book(z).z_BND, z, grad)
        (wanted,) = torch.autograd.grad(book.down(z), z, grad[0])
        assert_close(got, wanted)
        assert book(z).loss == 0

    def test_the_first_batch_fills_the_grid_and_no_other_moves_it(self):
        book, z = self.book(), 0.01 * latents(500, 4) + 3
        book.started.fill_(False)
        book.seen_started = False
        assert len(book(z).ids_BN.unique()) > 100
        x = F.linear(z, book.project_in.weight, book.project_in.bias)
        assert_close(x[0].detach().mean(0), torch.zeros(4, dtype=torch.float64))
        assert_close(x[0].detach().std(0, correction=0), torch.ones(4, dtype=torch.float64))
        before = book.project_in.weight.clone()
        book(5 * z)
        assert torch.equal(book.project_in.weight, before)

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ({"levels": (5, 4)}, "levels: wanted a tuple of 3, one of each of code_dim numbers"),
            ({"levels": (5, 4, 2)}, "levels: wanted a whole number from 3"),
            ({"levels": (5, 4, 65)}, "levels: wanted a whole number from 3 to 64, got 65"),
            ({"n_codes": (60, 64)}, r"n_codes: wanted 60, the product of levels \(5, 4, 3\)"),
            ({"gradient": "rotation"}, "gradient, orthogonal: wanted 'straight_through' and 0"),
            ({"orthogonal": 1.0}, "gradient, orthogonal: wanted 'straight_through' and 0"),
            ({"codebook": "euclidean"}, "levels: wanted a tuple of 0, none where codebook"),
            ({"codebook": "lookup"}, "codebook: wanted one of 'euclidean', 'cosine', 'residual'"),
            ({"gradient": "none"}, "gradient: wanted one of 'straight_through', 'rotation'"),
        ],
    )
    def test_refuses_what_does_not_go_together(self, sizes, message):
        with pytest.raises(ArgumentError, match=message):
            tiny_config(
                n_codes=sizes.get("n_codes", (60, 60)),
                tokenizer=FSQ_SIZES["tokenizer"]
                | {k: v for k, v in sizes.items() if k != "n_codes"},
            )

    def test_fit_takes_the_finest_levels_that_the_data_have_codes_for(self):
        def sizes(n, **how):
            return model_config(np.zeros((n, 1, 64), np.float32), None, "base", how).tokenizer

        few, many = (sizes(n, codebook="fsq") for n in (2, 5000))
        assert few.levels == LEVELS[0]
        assert many.levels == LEVELS[-1]
        assert many.n_codes == (1000, 1000)
        assert sizes(2, codebook="fsq", levels=(3, 3)).n_codes == (9, 9)
        with pytest.raises(ArgumentError, match="n_codes: wanted 9"):
            sizes(2, codebook="fsq", levels=(3, 3), n_codes=16)
        with pytest.raises(ArgumentError, match="n_quantisers: wanted none where codebook is not"):
            sizes(2, n_quantisers=3)
        for wrong in (5, (), (5, "a"), (65, 4), (65536, 65536), (64,) * 5, (3,) * 10**5):
            with pytest.raises(ArgumentError, match="levels: wanted"):
                sizes(2, codebook="fsq", levels=wrong)

    def test_a_preset_is_refused_what_does_nothing_and_gives_way_to_arguments(self):
        def sizes(tokenizer, family="vq", **how):
            preset = Preset(tokenizer, (PriorConfig(),) * 2)
            return model_config(np.zeros((9, 1, 64), np.float32), None, preset, how, family)

        fsq = {"codebook": "fsq", "levels": (5, 4, 3)}
        residual = {"codebook": "residual", "n_quantisers": 3}
        assert sizes(fsq).tokenizer.levels == (5, 4, 3)
        assert sizes(fsq, codebook="fsq").tokenizer.levels == (5, 4, 3)
        assert sizes(fsq, codebook="cosine").tokenizer.levels == ()
        assert sizes(residual, codebook="residual").tokenizer.depth == 3
        assert sizes(residual, codebook="euclidean").tokenizer.depth == 1
        assert sizes({"n_quantisers": 3}, codebook="residual").tokenizer.depth == 3
        assert sizes(residual, codebook="fsq", levels=(3, 3)).tokenizer.levels == (3, 3)
        for tokenizer, how, message in (
            ({"n_quantisers": 3}, {}, "n_quantisers: wanted none where codebook is not"),
            ({"levels": (5, 5)}, {}, "levels: wanted a tuple of 0, none where codebook"),
            (fsq, {"codebook": "euclidean", "levels": (5, 5)}, "levels: wanted a tuple of 0"),
            (fsq, {"family": "vae"}, "codebook, levels: wanted none for a vae"),
            ({"gradient": "rotation"}, {"family": "vae"}, "gradient: wanted none for a vae"),
        ):
            with pytest.raises(ArgumentError, match=message):
                sizes(tokenizer, **how)
        assert sizes(PRESETS["base"].tokenizer, "vae").family == "vae"

    @pytest.mark.parametrize("below", [1.01, 20.0])
    def test_restart_below_is_at_most_the_count_of_a_code_that_starts_anew(self, below):
        assert tiny_config(tokenizer={"restart_below": 1.0})
        with pytest.raises(ArgumentError, match="restart_below: wanted a finite number from 0"):
            tiny_config(tokenizer={"restart_below": below})


class TestResidual:
    def book(self, K=12, Q=3, **sizes):
        sizes = {"codebook": "residual", "n_codes": (K, K), "n_quantisers": Q} | sizes
        return of_dims(3, **sizes)

    def test_each_code_is_the_nearest_to_what_is_left(self):
        book, z = self.book(), latents(40)
        book(z)
        codes = book.codes().clone()
        out = book(z)
        left, total = z[0].clone(), torch.zeros_like(z[0])
        for ids_N in out.ids_BN.view(3, 40):
            wanted = torch.cdist(left, codes).argmin(1)
            assert torch.equal(ids_N, wanted)
            left, total = left - codes[wanted], total + codes[wanted]
        assert_close(out.z_BND[0].detach(), total)
        assert out.counts_K.sum() == 3 * 40

    def test_tokens_are_depth_by_depth_and_decode_to_their_sum(self):
        book = self.book().eval()
        ids = torch.arange(2 * 3 * 5).view(2, 15) % 12
        wanted = book.codes()[ids.view(2, 3, 5)].sum(1)
        assert_close(book.decode(ids), wanted)
        z = torch.randn(4, 5, 3, dtype=torch.float64)
        alone = torch.cat([book.encode(row[None]) for row in z])
        assert torch.equal(book.encode(z), alone)
        assert book.encode(z[:0]).shape == (0, 15)
        assert book.decode(ids[:0]).shape == (0, 5, 3)

    def test_learns_by_the_vectors_of_every_depth(self):
        book, z = self.book(ema_decay=0.75), latents(60)
        book(z)
        counts, sums = book.counts_K.clone(), book.sums_KD.clone()
        codes = book.codes().clone()
        out = book(z)
        new_counts, new_sums, left = torch.zeros(12), torch.zeros_like(sums), z[0].clone()
        for ids_N in out.ids_BN.view(3, 60):
            for k, x in zip(ids_N.tolist(), left, strict=True):
                new_counts[k] += 1
                new_sums[k] += x
            left = left - codes[ids_N]
        assert_close(book.counts_K, 0.75 * counts + 0.25 * new_counts.double())
        assert_close(book.sums_KD, 0.75 * sums + 0.25 * new_sums)

    def test_loss_commits_to_the_sum_at_every_depth(self):
        book, z = self.book(commitment=0.5), latents(30)
        book(z)
        codes = book.codes().clone()
        out = book(z)
        sums = codes[out.ids_BN.view(3, 30)].cumsum(0)
        assert_close(out.loss, 0.5 * (z - sums).square().mean())

    def test_starts_with_codes_for_each_depth(self):
        """Each depth leaves less, and two depths of few codes leave less than one of as many."""
        book, z = self.book(16, 2), latents(400)
        book(z)
        left = [
            (z[0] - q_MD).square().sum()
            for q_MD in book.chosen(
                book.search(z[0], book.codes(), stats=False).ids_N, book.codes()
            )
        ]
        single, _ = kmeans(z[0], 16, "euclidean")
        assert left[1] < 0.5 * left[0]
        assert left[1] < torch.cdist(z[0], single).amin(1).square().sum()

    def test_restart_moves_dead_codes_to_what_is_left_at_some_depth(self):
        book, z = self.book(24, 2, restart_below=0.5), latents(50)
        book(z)
        book.counts_K[12:] = 0.1
        x, codes = z[0], book.codes().clone()
        depth_0 = book.search(x, codes, stats=False).ids_N[0]
        candidates = torch.cat([x, x - codes[depth_0]])
        book.prepare(x)
        assert torch.equal(book.codes_KD[:12], codes[:12])
        distance = torch.cdist(book.codes_KD[12:], candidates).amin(1)
        assert distance.max() < 1e-6
        picked = torch.cdist(book.codes_KD[12:], candidates).argmin(1)
        assert (picked < 50).any()
        assert (picked >= 50).any()

    def test_with_orthogonal_codes_the_gradient_reaches_them(self):
        book = self.book(orthogonal=1.0)
        book(latents(30)).loss.backward()
        assert book.codes_KD.grad.abs().sum() > 0

    def test_needs_codes_enough(self):
        with pytest.raises(ArgumentError, match="n_codes: wanted n_quantisers = 13 or more"):
            self.book(12, 13)

    @pytest.mark.parametrize(("depth", "K"), [(2, 32), (33, 64), (64, 64)])
    def test_fit_gives_few_series_codes_enough_for_every_depth(self, depth, K):
        how = {"codebook": "residual", "n_quantisers": depth}
        config = model_config(np.zeros((2, 1, 64), np.float32), None, "base", how).tokenizer
        assert config.n_codes == (K, K)

    def test_is_drawn_by_engine_torch_alone_and_the_others_say_why(self):
        network = tiny_network(tiny_config(**RESIDUAL_SIZES))
        assert type(Sampler(network).engine) is ENGINES["torch"]
        for name in ("cpu", "cuda", "cuda_cpp"):
            with pytest.raises(ArgumentError, match="takes one token a place, not the several"):
                Sampler(network, engine=name)


@SIZES
class TestThroughAModel:
    def test_tokens_and_back(self, sizes):
        model = tiny_model(length=64, **sizes)
        x, config = smooth_series(70, 1, 64), model.config.tokenizer
        ids = model.encode(x)
        assert ids.shape == (70, sum(map(config.n_tokens, range(2))))
        np.testing.assert_array_equal(model.encode(x[60:]), ids[60:])
        with torch.no_grad():
            scaled = torch.from_numpy(model.scaler.apply(x))
            wanted = model.scaler.undo(model.network.tokenizer(scaled).x_BCL.numpy())
        np.testing.assert_allclose(model.decode(ids), wanted, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("alignment", ["time", "flat"])
    @pytest.mark.parametrize("bands", [1, 2])
    def test_sample_i_is_the_same_in_any_batch(self, sizes, bands, alignment):
        model = tiny_model(bands=bands, band_alignment=alignment, **sizes)
        many = model.generate(70, label="bell", seed=7)
        np.testing.assert_array_equal(
            many[[69, 3]], model.generate(indices=[69, 3], label="bell", seed=7)
        )
        assert len(np.unique(many, axis=0)) > 1

    def test_fills_in_and_goes_on(self, sizes):
        model = tiny_model(length=64, **sizes)
        x = smooth_series(3, 1, 64)
        x[:, :, 20:40] = np.nan
        full = model.impute(x)
        assert np.isfinite(full).all()
        np.testing.assert_array_equal(full[:, :, :20], x[:, :, :20])
        assert model.forecast(full, 16, 2).shape == (3, 2, 1, 16)

    def test_comes_back_from_its_files(self, sizes, tmp_path):
        model = tiny_model(**sizes)
        model.save(tmp_path / "model")
        again = tsgen.load(tmp_path / "model")
        assert again.config == model.config
        assert_same_weights(model, again)
        np.testing.assert_array_equal(again.generate(3), model.generate(3))
        text = (tmp_path / "model" / "config.json").read_text()
        kind = model.config.tokenizer.codebook
        (tmp_path / "model" / "config.json").write_text(text.replace(f'"{kind}"', '"lfq"'))
        with pytest.raises(FileError, match=r"codebook: wanted one of .*, got 'lfq'"):
            tsgen.load(tmp_path / "model")

    def test_trains_as_one_graph(self, sizes):
        book, z = quantiser(tiny_config(**sizes).tokenizer, 0).train(), torch.randn(16, 4, 8)
        book(z)
        assert book.has_started()  # asked once, before there is a graph
        out = torch.compile(book, fullgraph=True, backend="aot_eager")(z)
        (out.z_BND.square().mean() + out.loss).backward()
        assert all(p.grad is not None for p in book.parameters())


@pytest.mark.parametrize(
    "how",
    [
        {"codebook": "fsq"},
        {"gradient": "rotation"},
        {"codebook": "residual", "orthogonal": 1.0, "n_quantisers": 3, "gradient": "rotation"},
    ],
    ids=lambda how: "-".join(map(str, how.values())),
)
def test_fit_learns_and_draws(how):
    X, y = series(n=40)
    model = tsgen.fit(X, y, preset=TINY, steps=(40, 3), learning_rate=(1e-2, 1e-3), **how)
    error = np.square(model.decode(model.encode(X)) - X[:, None]).mean()
    assert error < 0.5 * X.var()
    assert np.isfinite(model.generate(3, label="slow")).all()


def test_old_files_know_nothing_of_quantisers():
    """What was saved before there was a choice of them."""
    values = tiny_config().to_dict()
    for name in ("levels", "n_quantisers", "gradient"):
        del values["tokenizer"][name]
    del values["vae"]
    assert tsgen.config.ModelConfig.from_dict(values) == tiny_config()


def test_a_residual_codebook_is_a_codebook():
    book = quantiser(tiny_config(**RESIDUAL_SIZES).tokenizer, 0)
    assert isinstance(book, Residual)
    assert set(book.state_dict()) == set(quantiser(tiny_config().tokenizer, 0).state_dict())
