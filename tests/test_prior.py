"""The prior: its loss, its masks, and the savings that must change nothing."""

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_config, tiny_network
from torch import Tensor
from torch.testing import assert_close

from tsgen.context import Context, around
from tsgen.network import Network
from tsgen.prior import Prior, draw_n_masked, masked_positions, training_masks

SIZES = {"length": 32, "tokenizer": {"token_width": (8, 8)}, "n_codes": (12, 20)}
EXACT = {"atol": 1e-9, "rtol": 1e-9}


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(params=[0, 1], ids=["low", "high"])
def drawn(request):
    """A float64 prior and a batch for it: ids with some masked, classes, and the low band's ids."""
    network = tiny_network(**SIZES).double()
    rng = torch.Generator().manual_seed(1)
    ids = [
        torch.randint(0, p.n_codes, (6, p.n_tokens), generator=rng) for p in network.each_prior()
    ]
    prior = network.each_prior()[request.param]
    ids_BN = ids[request.param]
    masked_BN = torch.rand(ids_BN.shape, generator=rng) < 0.6
    low = (ids[0],) if request.param else ()
    return prior, ids_BN, masked_BN, torch.tensor([0, 1, 2, 3, 3, 0]), low


class TestLoss:
    def test_is_the_cross_entropy_of_masked_tokens_the_long_way(self, drawn):
        prior, ids_BN, masked_BN, class_B, low = drawn
        with torch.no_grad():
            seen_BN = torch.where(masked_BN, prior.n_codes, ids_BN)
            logits = prior(seen_BN, class_B, *low).tolist()
            total = [
                torch.tensor(logits[b][n]).logsumexp(0).item() - logits[b][n][ids_BN[b, n]]
                for b, n in masked_BN.nonzero().tolist()
            ]
            loss = prior.loss(ids_BN, masked_BN, class_B, *low)
        assert loss.item() == pytest.approx(sum(total) / len(total), rel=1e-6)

    def test_does_not_look_at_the_tokens_it_asks_for(self, drawn):
        prior, ids_BN, masked_BN, class_B, low = drawn
        seen_BN = torch.where(masked_BN, prior.n_codes, ids_BN)
        others = torch.where(masked_BN, (ids_BN + 1) % prior.n_codes, ids_BN)
        hidden = prior.hidden(seen_BN, class_B, *low)
        again = prior.hidden(torch.where(masked_BN, prior.n_codes, others), class_B, *low)
        assert torch.equal(hidden, again)

    def test_reaches_every_weight(self, drawn):
        prior, ids_BN, masked_BN, class_B, low = drawn
        prior.train().loss(ids_BN, masked_BN, class_B, *low).backward()
        for name, p in prior.named_parameters():
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            assert p.numel() == 0 or p.grad.abs().sum() > 0, name

    def test_is_finite_in_bfloat16(self):
        network = Network(tiny_config(**SIZES)).train()
        with torch.autocast("cpu", torch.bfloat16):
            tokenized = network.tokenizer(torch.randn(8, 1, 32))
            ids = network.tokenizer.encode(torch.randn(8, 1, 32))
            loss = tokenized.loss
            for band, prior in enumerate(network.each_prior()):
                masked_BN = torch.rand(ids[band].shape) < 0.5
                class_B = torch.randint(0, 4, (8,))
                loss = loss + prior.loss(ids[band], masked_BN, class_B, *ids[:band])
        loss.backward()
        assert loss.isfinite()
        for name, p in network.named_parameters():
            assert p.grad is None or p.grad.isfinite().all(), name


class TestDropout:
    def test_spares_masked_tokens_and_eval_mode(self, drawn):
        prior, ids_BN, _, class_B, _ = drawn
        if prior.context is not None:
            prior.context.dropout = 0.0
        prior.dropout = 0.9
        low = (torch.zeros(6, 8, dtype=torch.int64),) if prior.context is not None else ()
        every = torch.full_like(ids_BN, prior.n_codes)
        with torch.no_grad():
            prior.train()
            assert torch.equal(prior(every, class_B, *low), prior(every, class_B, *low))
            assert not torch.equal(prior(ids_BN, class_B, *low), prior(ids_BN, class_B, *low))
            prior.eval()
            assert torch.equal(prior(ids_BN, class_B, *low), prior(ids_BN, class_B, *low))

    def test_is_a_function_of_torchs_seed(self, drawn):
        prior, ids_BN, _, class_B, low = drawn
        prior.train()

        def logits(seed: int) -> Tensor:
            torch.manual_seed(seed)
            return prior(ids_BN, class_B, *low).detach()

        assert torch.equal(logits(1), logits(1))
        assert not torch.equal(logits(1), logits(2))


class TestMasks:
    def test_have_as_many_as_asked_at_uniform_places(self):
        torch.manual_seed(0)
        n_masked_B = torch.arange(11).repeat(2000)
        masked_BN = training_masks(n_masked_B, 10)
        assert torch.equal(masked_BN.sum(1), n_masked_B)
        # each place is masked half the time: 0.5 ± 0.0034
        assert_close(
            masked_BN.double().mean(0), torch.full((10,), 0.5).double(), atol=0.015, rtol=0
        )

    @pytest.mark.parametrize(("polarity", "mean"), [("mask", 0.6366), ("keep", 0.3634)])
    def test_cover_64_or_36_percent(self, polarity, mean):
        torch.manual_seed(0)
        share_B = draw_n_masked(200_000, 1000, polarity, torch.device("cpu")) / 1000
        assert share_B.double().mean().item() == pytest.approx(mean, abs=0.004)
        # cos(πr/2) for uniform r lies below x with probability 2/π asin(x)
        below = (share_B <= 0.5).double().mean().item()
        assert below == pytest.approx(1 / 3 if polarity == "mask" else 2 / 3, abs=0.01)

    @pytest.mark.parametrize("polarity", ["mask", "keep"])
    @pytest.mark.parametrize("n_tokens", [1, 2, 7])
    def test_always_cover_one_and_may_cover_all(self, polarity, n_tokens):
        torch.manual_seed(0)
        drawn = draw_n_masked(5000, n_tokens, polarity, torch.device("cpu"))
        assert sorted(drawn.unique().tolist()) == list(range(1, n_tokens + 1))

    def test_positions_are_listed_in_order(self):
        masked_BN = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 1]], dtype=torch.bool)
        assert masked_positions(masked_BN, 3).tolist() == [[1, 2, 4], [0, 1, 4]]
        assert masked_positions(masked_BN, 0).shape == (2, 0)


class TestSavings:
    def test_folded_parts_add_up_to_the_hidden_states(self, drawn):
        prior, ids_BN, masked_BN, class_B, low = drawn
        ids_BN = torch.where(masked_BN, prior.n_codes, ids_BN)
        with torch.no_grad():
            context = prior.fold_context(*low) if low else None
            got = prior.transform(prior.assemble(prior.fold(), ids_BN, class_B, context))
            assert_close(got, prior.hidden(ids_BN, class_B, *low), **EXACT)

    def test_the_last_layer_at_some_positions_is_the_whole_at_those(self, drawn):
        prior, ids_BN, _, class_B, low = drawn
        with torch.no_grad():
            context = prior.fold_context(*low) if low else None
            x_BTD = prior.assemble(prior.fold(), ids_BN, class_B, context)
            whole = prior.transform(x_BTD)
            places_BM = torch.stack([torch.randperm(prior.n_tokens)[:5] for _ in ids_BN])
            rows = torch.arange(len(ids_BN))[:, None]
            assert_close(prior.transform(x_BTD, places_BM), whole[rows, places_BM], **EXACT)

    def test_every_series_is_by_itself(self, drawn):
        prior, ids_BN, _, class_B, low = drawn
        with torch.no_grad():
            together = prior(ids_BN, class_B, *low)
            alone = prior(ids_BN[2:3], class_B[2:3], *(ids[2:3] for ids in low))
        assert_close(together[2:3], alone, **EXACT)


def plain_context(context: Context, low_BM: Tensor) -> Tensor:
    """(B, N, E) as it is defined: stretch, then convolve; or convolve, then stretch."""
    x_BEM, (rows, width) = F.embedding(low_BM, context.embed()).mT, context.grid
    B, size, dilation = len(x_BEM), rows * width, context.conv_out.dilation
    if not context.aligned:
        x_BEM = F.interpolate(x_BEM, size=size, mode="nearest")
    h = F.conv1d(x_BEM, context.conv_in.weight, context.conv_in.bias, padding="same")
    h = context.norm(F.gelu(h))
    out = context.conv_out
    maps = F.conv1d(h, out.weight, out.bias, padding="same", dilation=dilation)
    if not context.aligned:
        return maps.mT
    maps = maps.view(B, rows, -1, context.finer, maps.shape[2]).mT
    x = F.interpolate(maps.reshape(B, -1, context.finer * maps.shape[3]), size=width)
    return x.view(B, rows, -1, width).mT.reshape(B, size, -1)


def plain_hidden(
    prior: Prior, ids_BN: Tensor, class_B: Tensor, low_BM: Tensor | None = None
) -> Tensor:
    """As it is defined: everything side by side, then the input projection."""
    x_BNE = F.embedding(ids_BN, prior.embed())
    if low_BM is not None:
        x_BNE = torch.cat([plain_context(prior.context, low_BM), x_BNE], 2)
    x_BNE = x_BNE + prior.places.weight
    x_BTE = torch.cat([prior.classes(class_B)[:, None], x_BNE], 1)
    return prior.transform(prior.project_in(x_BTE))


class TestPlainForm:
    """Loss and gradients of the formulas above are those of the savings."""

    @pytest.mark.parametrize("tables", ["free", "codes"])
    @pytest.mark.parametrize("alignment", ["time", "flat"])
    @pytest.mark.parametrize("length", [32, 61])
    @pytest.mark.parametrize("band", [0, 1])
    def test_training_is_that_of_the_plain_form(self, band, length, alignment, tables):
        network = tiny_network(
            length=length, band_alignment=alignment, prior={"tables": tables, "dropout": 0.0}
        )
        prior = network.double().each_prior()[band].train()
        ids = [torch.randint(0, p.n_codes, (6, p.n_tokens)) for p in network.each_prior()]
        masked_BN, class_B = torch.rand(ids[band].shape) < 0.6, torch.tensor([0, 1, 2, 3, 3, 0])
        low = ids[:band]

        seen_BN = torch.where(masked_BN, prior.n_codes, ids[band])
        logits_RK = F.linear(
            plain_hidden(prior, seen_BN, class_B, *low)[masked_BN], prior.head(), prior.head_bias
        )
        plain = F.cross_entropy(logits_RK, ids[band][masked_BN])
        weights = list(prior.parameters())
        wanted = torch.autograd.grad(plain, weights)
        ours = prior.loss(ids[band], masked_BN, class_B, *low)
        assert_close(ours, plain, rtol=1e-10, atol=0)
        for mine, other in zip(torch.autograd.grad(ours, weights), wanted, strict=True):
            assert_close(mine, other, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize(
        ("M", "N"), [(8, 64), (3, 14), (5, 5), (9, 4), (1, 10), (2, 1), (7, 61)]
    )
    @pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (3, 1), (7, 2)])
    def test_stretching_products_is_stretching_tokens(self, M, N, taps, dilation):
        context = Context(tiny_config(band_alignment="flat")).double().train()
        context.dropout = 0.0
        context.conv_in = torch.nn.Conv1d(8, 16, taps, padding="same").double()
        context.conv_out = torch.nn.Conv1d(16, 8, taps, padding="same", dilation=dilation).double()
        for p in context.norm.parameters():
            torch.nn.init.normal_(p)
        x_BME = torch.randn(3, M, 8, dtype=torch.float64, requires_grad=True)
        weight_DE, asked_BDN = torch.randn(5, 8).double(), torch.randn(3, 5, N).double()
        weights = [p for name, p in context.named_parameters() if not name.startswith("embed")]

        def gradients(y_BDN: Tensor) -> list[Tensor]:
            back = torch.autograd.grad((y_BDN * asked_BDN).sum(), [x_BME, *weights])
            return [y_BDN, *back]

        ours = gradients(context.convolved(x_BME, N, weight_DE))
        statistics = [context.norm.running_mean.clone(), context.norm.running_var.clone()]
        context.norm.reset_running_stats()
        y = context.conv_in(F.interpolate(x_BME.mT, size=N, mode="nearest"))
        y = context.conv_out(context.norm(F.gelu(y)))
        plain = [*gradients((y.mT @ weight_DE.T).mT)]
        plain += [context.norm.running_mean, context.norm.running_var]
        for mine, other in zip([*ours, *statistics], plain, strict=True):
            assert_close(mine, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("size", "dilation"), [(1, 1), (3, 1), (7, 2)])
def test_a_product_of_what_is_around_is_a_convolution(size, dilation):
    h_BNF, weight = torch.randn(3, 9, 5).double(), torch.randn(4, 5, size).double()
    wanted = F.conv1d(h_BNF.mT, weight, padding="same", dilation=dilation)
    ours = F.linear(around(h_BNF, size, dilation), weight.mT.flatten(1)).mT
    assert_close(ours, wanted, rtol=1e-12, atol=1e-12)


class TestContext:
    """Which low tokens a high token sees, once the convolutions pass on their middle alone."""

    @pytest.mark.parametrize("alignment", ["time", "flat"])
    @pytest.mark.parametrize(("length", "n_low", "width"), [(64, 4, 8), (61, 3, 7)])
    def test_low_tokens_stand_where_they_should(self, alignment, length, n_low, width):
        config = tiny_config(
            length=length, tokenizer={"token_width": (4, 8)}, band_alignment=alignment
        )
        assert (config.tokenizer.grid(0), config.tokenizer.grid(1)) == ((1, n_low), (2, width))
        context = Context(config).double().eval()
        before, same = torch.zeros(1, n_low, dtype=torch.int64), torch.eye(8).double()
        with torch.no_grad():
            for conv in (context.conv_in, context.conv_out):
                size = conv.weight.shape[2]
                conv.weight[:, :, torch.arange(size) != size // 2] = 0
            context.embed.see(torch.randn(12, 4))
            for m in range(n_low):
                after = before.clone()
                after[0, m] = 3
                changed = (context(after, same) - context(before, same)).abs().sum(2)[0] > 1e-9
                time = [t * n_low // width == m for t in range(width)]
                flat = [n * n_low // (2 * width) == m for n in range(2 * width)]
                assert changed.tolist() == (time * 2 if alignment == "time" else flat)


class TestCompile:
    """Whole, in training with dropout too."""

    @pytest.fixture(autouse=True)
    def _fresh(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
    @torch.no_grad()
    def test_takes_tokenizer_and_priors_whole(self):
        network = tiny_network(**SIZES)
        x, class_B = torch.randn(4, 1, 32), torch.tensor([0, 1, 2, 3])
        plain = network.tokenizer(x)
        whole = torch.compile(network.tokenizer, fullgraph=True, backend="aot_eager")(x)
        assert_close(whole.x_BCL, plain.x_BCL)
        assert_close(whole.loss, plain.loss)
        ids = network.tokenizer.encode(x)
        for band, prior in enumerate(network.each_prior()):
            compiled = torch.compile(prior, fullgraph=True, backend="aot_eager")
            args = (ids[band], class_B, *ids[:band])
            assert_close(compiled(*args), prior(*args))
            prior.train()
            assert compiled(*args).isfinite().all()
            prior.eval()
            folded, context = prior.fold(), prior.fold_context(ids[0]) if band else None
            assemble = torch.compile(prior.assemble, fullgraph=True, backend="aot_eager")
            x_BTD = assemble(folded, ids[band], class_B, context)
            assert_close(
                F.linear(prior.transform(x_BTD), folded.head_KD, prior.head_bias), prior(*args)
            )
