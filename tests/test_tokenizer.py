"""Series to tokens and back: lengths, targets, and how the codebook learns."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import smooth_series, tiny_config, tiny_model, tiny_network
from torch.testing import assert_close

from tsgen.config import TokenizerConfig
from tsgen.layers import UpConv
from tsgen.quantisers import perplexity
from tsgen.quantisers.codebook import SMOOTHING, Codebook, kmeans, orthogonality
from tsgen.tokenizer import Tokenizer, code_use

LENGTHS = [*range(2, 301), 511, 512, 513, 1023, 4097]


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def codebook(n_codes=6, *, project=False, seed=0, **changes):
    """With dims of 3, its projections the identity unless `project`."""
    config = TokenizerConfig(n_channels=1, length=16, hidden_dim=3, code_dim=3, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        out = Codebook(config, n_codes)
    with torch.no_grad():
        for linear in () if project else (out.project_in, out.project_out):
            linear.weight.copy_(torch.eye(3))
            linear.bias.zero_()
    return out


def started(n_codes=6, **changes):
    """A codebook in training whose codes do not wait for k-means."""
    out = codebook(n_codes, **changes).train()
    out.started.fill_(True)
    return out


def latents(n, seed=1, **kwargs):
    return torch.randn(1, n, 3, generator=torch.Generator().manual_seed(seed), **kwargs)


def buffers(module):
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def assert_unchanged(module, before):
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, before[name]), name


class TestLengths:
    @pytest.mark.parametrize("bands", [1, 2])
    def test_output_is_as_long_as_the_input(self, bands):
        for length in LENGTHS:
            n_channels = min(1 + length % 3, length - 1)
            sizes = {"bands": bands, "length": length, "n_channels": n_channels}
            few_layers = {"n_resblocks": 0, "token_width": (16, 64)[:bands]}
            config = tiny_config(**sizes, tokenizer=few_layers).tokenizer
            tokenizer = Tokenizer(config).eval()
            ids = tokenizer.encode(torch.randn(2, n_channels, length))
            sizes = [(2, config.n_tokens(band)) for band in range(bands)]
            assert [tuple(ids_BN.shape) for ids_BN in ids] == sizes, length
            x = tokenizer.decode(ids)
            assert x.shape == (2, n_channels, length), length
            assert x.isfinite().all(), length

    @pytest.mark.parametrize("bands", [1, 2])
    @pytest.mark.parametrize("length", [2, 3, 4, 61, 128, 513, 4097])
    def test_so_it_is_through_a_model(self, bands, length):
        n_channels = min(3, length - 1)
        model = tiny_model(bands=bands, length=length, n_channels=n_channels, names=())
        x = smooth_series(2, n_channels, length)
        ids, config = model.encode(x), model.config.tokenizer
        assert ids.shape == (2, sum(map(config.n_tokens, range(bands))))
        assert model.decode(ids).shape == x.shape
        assert model.generate(1).shape == x[:1].shape

    @pytest.mark.parametrize("n_fft", [2, 3, 6, 8, 16])
    def test_other_windows_too(self, n_fft):
        for length in (8, 9, 16, 17, 61):
            model = tiny_model(length=length, names=(), tokenizer={"n_fft": n_fft})
            x = smooth_series(2, 1, length)
            assert model.decode(model.encode(x)).shape == x.shape

    @pytest.mark.parametrize("length", [2, 3, 31, 64])
    def test_latents_fill_the_grid_of_the_config(self, length):
        network = tiny_network(length=length, n_channels=2)
        inner = network.tokenizer.prepare(torch.randn(3, 2, length))
        for i, band in enumerate(network.tokenizer.each()):
            z_BND = band.latents(inner, network.tokenizer.window_W)
            assert z_BND.shape == (3, network.config.tokenizer.n_tokens(i), 8)


class TestTargets:
    @pytest.mark.parametrize("bands", [1, 2])
    @pytest.mark.parametrize("length", [2, 3, 4, 63, 64, 128])
    def test_of_the_bands_add_up_to_the_series(self, bands, length):
        tokenizer = tiny_network(bands=bands, length=length, n_channels=2).tokenizer
        x = torch.randn(4, 2, length)
        targets = tokenizer.targets(tokenizer.prepare(x))
        assert len(targets) == bands
        assert_close(sum(targets), x)

    def test_of_the_high_band_is_its_own_rows(self):
        tokenizer = tiny_network(length=64).tokenizer
        x = torch.randn(4, 1, 64)
        assert_close(tokenizer.targets(x)[1], tokenizer.band_series(x, 1), atol=1e-5, rtol=1e-5)

    def test_losses_are_mean_squares_below_and_means_above(self):
        tokenizer = tiny_network(length=64).tokenizer
        x = torch.randn(4, 1, 64)
        with torch.no_grad():
            out, ids = tokenizer(x), tokenizer.encode(x)
            bands = zip(tokenizer.each(), ids, strict=True)
            low, high = (b.series(b.codebook.decode(i), tokenizer.window_W) for b, i in bands)
        targets = tokenizer.targets(x)
        assert_close(out.parts["reconstruction_0"], (low - targets[0]).square().mean())
        assert_close(out.parts["reconstruction_1"], (high - targets[1]).abs().mean())
        assert_close(out.loss, sum(out.parts.values()))
        assert_close(out.x_BCL, low + high)


class TestCodebookUpdate:
    def test_is_the_moving_average_written_by_hand(self):
        book, z = started(ema_decay=0.8), latents(50)
        book.counts_K.uniform_(1, 5)
        book.sums_KD.normal_()
        codes, counts = book.codes_KD.double().numpy(), book.counts_K.double().numpy()
        sums = book.sums_KD.double().numpy()
        book(z)
        new_counts, new_sums = np.zeros(6), np.zeros((6, 3))
        for x in z[0].double().numpy():
            k = int(np.argmin(((codes - x) ** 2).sum(1)))
            new_counts[k] += 1
            new_sums[k] += x
        counts = 0.8 * counts + 0.2 * new_counts
        sums = 0.8 * sums + 0.2 * new_sums
        smooth = (counts + SMOOTHING) / (counts.sum() + 6 * SMOOTHING) * counts.sum()
        for got, wanted in (
            (book.counts_K, counts),
            (book.sums_KD, sums),
            (book.codes_KD, sums / smooth[:, None]),
        ):
            np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5, atol=1e-6)

    def test_comes_after_the_old_codes_are_used(self):
        book, z = started(), latents(50)
        old = book.codes_KD.clone()
        out = book(z)
        assert not torch.equal(book.codes_KD, old)
        assert torch.equal(out.ids_BN[0], torch.cdist(z[0], old).argmin(1))
        assert_close(out.z_BND[0], old[out.ids_BN[0]])
        assert_close(out.loss, (z[0] - old[out.ids_BN[0]]).square().mean())
        assert torch.equal(out.counts_K, out.ids_BN[0].bincount(minlength=6))

    @pytest.mark.parametrize("space", ["euclidean", "cosine"])
    def test_never_happens_in_eval_mode(self, space):
        book = codebook(codebook=space, restart_below=1.0).eval()
        before = buffers(book)
        out = book(latents(50))
        book.encode(latents(50))
        book.decode(out.ids_BN)
        assert_unchanged(book, before)
        tokenizer = tiny_network(length=16).tokenizer
        before = buffers(tokenizer)
        tokenizer(torch.randn(3, 1, 16))
        tokenizer.encode(torch.randn(3, 1, 16))
        assert_unchanged(tokenizer, before)

    def test_restart_moves_dead_codes_onto_vectors_and_resets_their_averages(self):
        book, x = started(8, restart_below=0.1), latents(40)[0]
        book.counts_K.fill_(5)
        book.counts_K[-2:], book.codes_KD[-2:], book.sums_KD[-2:] = 0.05, 100.0, 777.0
        before = buffers(book)
        book.prepare(x)
        assert torch.equal(book.counts_K[:6], before["counts_K"][:6])
        assert torch.equal(book.codes_KD[:6], before["codes_KD"][:6])
        assert torch.equal(book.sums_KD[:6], before["sums_KD"][:6])
        assert (book.codes_KD[6:, None] == x).all(2).any(1).tolist() == [True, True]
        assert torch.equal(book.sums_KD[6:], book.codes_KD[6:])
        assert book.counts_K[6:].tolist() == [1, 1]

    def test_a_restarted_code_does_not_go_back_where_it_was(self):
        book, z = started(8, restart_below=0.1), latents(40)
        book.counts_K.fill_(5)
        book.counts_K[-1], book.codes_KD[-1], book.sums_KD[-1] = 0.05, 100.0, 777.0
        for _ in range(3):
            book(z)
        assert book.codes_KD[-1].norm() < z.norm(dim=-1).max()

    def test_restart_never_happens_at_0(self):
        book = started(8, restart_below=0.0)
        book.codes_KD[-1] = 100.0
        book(latents(40))
        assert book.counts_K[-1] == 0


class TestCodebookSpaces:
    def test_cosine_codes_without_use_keep_their_direction(self):
        book, z = codebook(codebook="cosine").train(), latents(50)
        book(z)
        with torch.no_grad():
            book.codes_KD[0] = -F.normalize(z[0, 0], dim=0)
        book.sums_KD[0] = 0.1 * book.codes_KD[0]
        book.counts_K[0] = 0.1
        wanted = book.codes()[0].clone()
        for _ in range(300):
            book(z[:, :1])
        assert book.counts_K[0] < 1e-20
        assert_close(book.codes()[0], wanted)
        assert_close(book.codes().norm(dim=1), torch.ones(6))

    def test_cosine_codes_that_k_means_gave_nothing_stay_of_length_1(self):
        book = codebook(12, codebook="cosine").train()
        book(latents(3))
        assert_close(book.codes().norm(dim=1), torch.ones(12))

    def test_cosine_ignores_length(self):
        book, z = started(codebook="cosine"), latents(50)
        book.codes_KD *= torch.arange(1, 7)[:, None]
        cosine = F.normalize(z[0], dim=-1) @ F.normalize(book.codes_KD, dim=-1).T
        assert torch.equal(book.encode(z)[0], cosine.argmax(1))
        assert torch.equal(book.encode(7 * z), book.encode(z))
        book(z)
        assert_close(book.codes().norm(dim=-1), torch.ones(6))

    @pytest.mark.parametrize("space", ["euclidean", "cosine"])
    def test_codes_start_at_the_centres_of_clusters(self, space):
        rng = torch.Generator().manual_seed(3)
        centres = 5 * torch.eye(3).repeat(2, 1) * torch.tensor([1, 1, 1, -1, -1, -1])[:, None]
        x = (centres[:, None] + 0.1 * torch.randn(6, 50, 3, generator=rng)).flatten(0, 1)
        if space == "cosine":
            x, centres = F.normalize(x, dim=-1), F.normalize(centres, dim=-1)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            codes, counts = kmeans(x, 30, space)
        assert torch.cdist(centres, codes).amin(1).max() < 0.2
        assert counts.sum() == len(x)
        used = counts > 0
        mine = torch.cdist(x, codes).argmin(1)
        assert len(mine.unique()) <= int(used.sum())

    @pytest.mark.parametrize("n", [1, 2, 5])
    def test_fewer_vectors_than_codes_are_enough(self, n):
        book = codebook(12).train()
        out = book(latents(n))
        assert bool(book.started)
        assert book.codes_KD.isfinite().all()
        assert_close(out.z_BND, latents(n))  # every vector found a code of its own

    def test_starts_once(self):
        book = codebook().train()
        book(latents(50))
        codes = book.codes_KD.clone()
        book(latents(50))
        assert (book.codes_KD - codes).norm() < 1

    def test_commitment_pulls_and_straight_through_passes_on(self):
        book = started(project=True, commitment=0.5)
        z = latents(20).requires_grad_()
        out = book(z)
        weight = torch.randn_like(out.z_BND)
        (through,) = torch.autograd.grad((out.z_BND * weight).sum(), z, retain_graph=True)
        # as if down and up followed each other
        jacobian = book.project_out.weight @ book.project_in.weight
        assert_close(through, weight @ jacobian)
        x = book.down(z).detach()
        codes = (out.z_BND - book.project_out.bias) @ torch.linalg.inv(book.project_out.weight).T
        (pull,) = torch.autograd.grad(out.loss, z)
        wanted = 0.5 * 2 * (x - codes[0]) / x.numel() @ book.project_in.weight
        assert_close(pull[0], wanted.detach(), atol=1e-5, rtol=1e-3)

    def test_orthogonality_reaches_the_codes(self):
        book = started(orthogonal=10.0)
        assert isinstance(book.codes_KD, torch.nn.Parameter)
        book.codes_KD.data[1] = 1.1 * book.codes_KD.data[0]
        before = orthogonality(book.codes_KD).item()
        for _ in range(50):
            book.codes_KD.grad = None
            book(latents(20)).loss.backward()
            book.codes_KD.data -= 0.1 * book.codes_KD.grad
        assert orthogonality(book.codes_KD).item() < 0.8 * before

    def test_orthogonality_of_known_codes(self):
        assert orthogonality(torch.eye(4)).item() == 0
        assert_close(orthogonality(torch.ones(4, 2)), torch.tensor(12 / 16))
        assert_close(orthogonality(torch.tensor([[2.0, 0], [3.0, 3.0]])), torch.tensor(0.25))

    def test_orthogonality_is_in_float32_under_autocast(self):
        codes = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
        wanted = orthogonality(codes)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(orthogonality(codes), wanted)


class TestCodeUse:
    def test_of_known_counts(self):
        assert perplexity(torch.tensor([5, 5, 0, 0])) == pytest.approx(2)
        assert perplexity(torch.tensor([7, 0])) == pytest.approx(1)
        assert perplexity(torch.tensor([1, 3])) == pytest.approx(4 / 3**0.75)
        assert perplexity(torch.zeros(3, dtype=torch.int64)) == pytest.approx(1)
        report = code_use([torch.tensor([5, 5, 0, 0]), torch.tensor([1, 1])])
        assert report == pytest.approx(
            {"perplexity_0": 2, "usage_0": 0.5, "perplexity_1": 2, "usage_1": 1}
        )

    def test_is_counted_in_training(self):
        tokenizer = Tokenizer(tiny_config(length=32).tokenizer).train()
        out = tokenizer(torch.randn(8, 1, 32))
        sizes = [tokenizer.config.n_tokens(band) for band in range(2)]
        assert [int(counts_K.sum()) for counts_K in out.counts] == [8 * n for n in sizes]
        assert math.isfinite(out.loss.item())


@pytest.mark.parametrize("n_rows", [1, 4])
def test_a_dense_transposed_convolution_is_products_added_up(n_rows):
    layer = UpConv(3, 5, n_rows, depthwise=False).double()
    x = torch.randn(2, 3, n_rows, 7, dtype=torch.float64, requires_grad=True)
    weights = [x, *layer.spread.parameters()]
    ours, wanted = layer.gathered(x), layer.spread(x)
    assert_close(ours, wanted, rtol=1e-12, atol=1e-12)
    for mine, other in zip(
        torch.autograd.grad(ours.square().sum(), weights),
        torch.autograd.grad(wanted.square().sum(), weights),
        strict=True,
    ):
        assert_close(mine, other, rtol=1e-12, atol=1e-12)
