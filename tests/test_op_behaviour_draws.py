"""As test_op_behaviour.py, for the ops of sampling and of training."""

import importlib
import math
from typing import Any

import pytest
import torch
from op_behaviour import assert_same, threads
from test_ops import OPS, calling, device_for, exact, loss_and_gradients, run
from torch import Tensor

from tsgen import dispatch, ops


class TestSampleCode:
    @pytest.mark.parametrize("backend", dispatch.TABLE["sample_code"])
    def test_draws_follow_the_law(self, backend):
        device = device_for("sample_code", backend, torch.float32)
        rng = torch.Generator().manual_seed(0)
        logits_K = torch.randn(37, generator=rng) * 2
        imitated = device == "cpu" and backend in ("triton", "cuda")  # which is slow
        n = 20_000 if imitated else 200_000
        u_R = torch.rand(n, generator=rng, dtype=torch.float64)
        ids_R, _ = ops.sample_code(
            logits_K.expand(n, -1).to(device), u_R.to(device), temperature=0.8, backend=backend
        )
        expected_K = (logits_K.double() / 0.8).softmax(-1) * n
        counts_K = ids_R.cpu().bincount(minlength=37)
        chi2 = float(((counts_K - expected_K).square() / expected_K).sum())
        assert chi2 < 36 + 5 * math.sqrt(2 * 36)  # 5 sigma over 36 degrees of freedom

    @pytest.mark.parametrize("backend", dispatch.TABLE["sample_code"])
    @pytest.mark.filterwarnings(
        "ignore:(invalid|All-NaN):RuntimeWarning"
    )  # of Triton's interpreter
    def test_edges(self, backend):
        device = device_for("sample_code", backend, torch.float32)
        logits = torch.tensor(
            [[-torch.inf, 0, 0, -torch.inf]] * 2
            + [[torch.nan, 0, 0, 0], [-torch.inf] * 4, [torch.inf, 0, 0, 0]]
        )
        u_R = torch.tensor([1e-17, 1 - 2**-53, 0.5, 0.5, 0.5], dtype=torch.float64)
        ids_R, logp_R = ops.sample_code(logits.to(device), u_R.to(device), backend=backend)
        assert ids_R.tolist() == [1, 2, 0, 0, 0]
        assert logp_R.isnan().tolist() == [False, False, True, True, True]

    @pytest.mark.parametrize("backend", dispatch.TABLE["sample_code"])
    def test_top_k_and_top_p_cut_what_they_say(self, backend):
        device = device_for("sample_code", backend, torch.float32)
        logits = torch.log(torch.tensor([0.1, 0.4, 0.4, 0.1])).expand(1000, -1).to(device)
        u_R = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64).to(device)

        def drawn(**settings: Any) -> set[int]:
            return set(ops.sample_code(logits, u_R, backend=backend, **settings)[0].tolist())

        assert drawn() == {0, 1, 2, 3}
        assert drawn(top_k=1) == {1}  # the lower code on a tie
        assert drawn(top_k=3) == {0, 1, 2}
        assert drawn(top_p=0.39) == {1}
        assert drawn(top_p=0.7) == {1, 2}
        assert drawn(top_k=3, top_p=0.85) == {1, 2}  # 0.8 / 0.9 of the three is enough
        assert drawn(temperature=0.0) == {1}
        assert drawn(temperature=1e-320) == {1}

    @pytest.mark.parametrize("backend", dispatch.TABLE["sample_code"])
    @pytest.mark.parametrize(
        ("size", "temperature", "drawn"),
        [(1, 1e-37, {1, 3}), (1, 1.0, {0, 1, 3}), (1, 1e37, {0, 1, 3}), (1e38, 1.0, {1, 3})],
    )
    def test_extremes_do_not_overflow(self, backend, size, temperature, drawn):
        device = device_for("sample_code", backend, torch.float32)
        logits = torch.tensor([[-size, size, -torch.inf, size]]).expand(100, -1).to(device)
        u_R = torch.linspace(0.005, 0.995, 100, dtype=torch.float64).to(device)
        ids_R, logp_R = ops.sample_code(logits, u_R, temperature=temperature, backend=backend)
        assert set(ids_R.tolist()) == drawn
        assert logp_R.isfinite().all()

    @pytest.mark.parametrize(
        ("backend", "dtype"),
        [("cpu", torch.float32), ("cuda", torch.float32), ("cuda", torch.bfloat16)],
    )
    def test_a_row_is_the_same_in_any_batch_and_on_any_number_of_threads(self, backend, dtype):
        device = device_for("sample_code", backend, dtype)
        R = 20_003 if device == "cuda" else 203  # blocks are of more rows where there are many
        for shape in ((R, 1024, 40, 1.0, 0, 1.0), (R, 100, 390, 0.7, 9, 0.9)):
            h_RD, u_R, *rest = OPS["sample_code"].make_inputs(shape, device, dtype)
            together = run("sample_code", (h_RD, u_R, *rest), backend)
            with threads(3):
                assert_same(together, run("sample_code", (h_RD, u_R, *rest), backend))
            for rows in (slice(0, 1), slice(57, 64), slice(190, 203)):
                part = run("sample_code", (h_RD[rows], u_R[rows], *rest), backend)
                assert_same([out[rows] for out in together], part)


class TestKeepConfident:
    @pytest.mark.parametrize("backend", dispatch.TABLE["keep_confident"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_what_is_equal_ties(self, backend, dtype):
        device = device_for("keep_confident", backend, dtype)
        row = [-0.0, 0.0, torch.nan, -torch.inf, 1e-45, -1e-45, 0.0]
        rows_BN = torch.tensor([row] * 8, dtype=dtype).to(device)
        masked_BN = ops.keep_confident(rows_BN, torch.arange(8).to(device), backend=backend)
        for n, masked_N in enumerate(masked_BN):
            again = [3, 2, 5, 6, 1, 0, 4][:n]
            assert masked_N.nonzero().flatten().tolist() == sorted(again)

    @pytest.mark.parametrize("backend", dispatch.TABLE["keep_confident"])
    def test_tie_and_nan(self, backend):
        device = device_for("keep_confident", backend, torch.float32)
        row = torch.tensor([[0.0, 0.0, torch.nan, 0.0, torch.inf]]).to(device)
        masked = ops.keep_confident(row, torch.tensor([2]).to(device), backend=backend)
        assert masked.tolist() == [[False, False, True, True, False]]


def kept(seed: int, n: int = 1 << 20, p: float = 0.3, backend: str | None = None) -> Tensor:
    """Which of n elements dropout keeps, as float64."""
    return ops.dropout(torch.ones(n), p, torch.tensor([seed]), backend=backend).gt(0).double()


class TestSumTaps:
    def test_threads_do_not_matter(self):
        device_for("sum_taps", "cpu", torch.float32)
        inputs = OPS["sum_taps"].make_inputs((37, 8, 7, 130, 61), "cpu", torch.float32)
        out = run("sum_taps", inputs, "cpu")
        backward = torch.ops.tsgen.sum_taps_backward.default
        grads = backward(*out, out[1], *inputs, backend="cpu")
        with threads(3):
            assert_same(out, run("sum_taps", inputs, "cpu"))
            assert_same(grads, backward(*out, out[1], *inputs, backend="cpu"))

    @pytest.mark.parametrize("backend", ["cpu", "triton"])
    def test_variance_of_what_hardly_varies(self, backend):
        device = device_for("sum_taps", backend, torch.float32)
        products = (1000 + torch.randn(64, 4, 1, 20)).to(device)
        var_F = products.double().flatten(0, 2).var(0, correction=0)
        source_N, bias_F = torch.arange(4, device=device), torch.zeros(20, device=device)
        out = ops.sum_taps(products, source_N, bias_F, backend=backend)
        torch.testing.assert_close(out.var_F.double(), var_F, rtol=1e-4, atol=0)

    @pytest.mark.parametrize("backend", dispatch.TABLE["sum_taps"])
    def test_tokens_stand_anywhere(self, backend, monkeypatch):
        device = device_for("sum_taps", backend, torch.float32)
        products, _, bias_F = OPS["sum_taps"].make_inputs((3, 5, 4, 7, 1), device, torch.float32)
        source_N = torch.tensor([3, 0, 3, 3, 4, 0, 4, 3, 1], device=device)  # and 2 nowhere
        if backend == "triton":  # of which it looks through so many at a time
            kernels = importlib.import_module("tsgen.kernels.sum_taps")
            monkeypatch.setattr(kernels, "PLACES", 4)
        inputs = (products, source_N, bias_F)
        grads = loss_and_gradients(calling("sum_taps", backend, products), inputs, OPS["sum_taps"])
        refs = loss_and_gradients(OPS["sum_taps"].reference, exact(inputs), OPS["sum_taps"])
        for grad, ref in zip(grads, refs, strict=True):
            torch.testing.assert_close(grad.cpu().double(), ref, rtol=1e-5, atol=1e-5)

    def test_triton_bits_of_a_series_do_not_depend_on_the_batch(self):
        device = device_for("sum_taps", "triton", torch.float32)
        inputs = OPS["sum_taps"].make_inputs((9, 4, 3, 130, 7), device, torch.float32)
        products, source_N, bias_F = inputs
        h, mean_F, var_F = run("sum_taps", inputs, "triton")
        few = run("sum_taps", (products[4:6], source_N, bias_F), "triton")
        assert torch.equal(few[0], h[4:6])
        backward = torch.ops.tsgen.sum_taps_backward.default
        grads = backward(h, mean_F, var_F, mean_F, *inputs, backend="triton")
        assert_same(grads, backward(h, mean_F, var_F, mean_F, *inputs, backend="triton"))

    def test_refuses_tokens_that_do_not_exist(self):
        device_for("sum_taps", "cpu", torch.float32)
        for source_N in (torch.tensor([0, 3]), torch.tensor([-1, 0])):
            with pytest.raises(ValueError, match="source: wanted tokens from 0 to 2"):
                ops.sum_taps(torch.ones(1, 3, 1, 2), source_N, torch.ones(2), backend="cpu")


class TestSeparableConv:
    SHAPES = (
        (9, 5, 2, 7, 9, 3, "same", "norm", True),
        (9, 18, 1, 8, 35, 1, "halve", "snake", True),
        (9, 3, 2, 4, 40, 1, "twice", "norm", True),
        (9, 20, 1, 5, 2, 1, "none", "snake", True),
    )

    @staticmethod
    def all_of(x: Tensor, weights: Any, kind: str, stats: bool, backend: str) -> list[Tensor]:
        """y, its statistics, and all gradients."""
        args = (x, *weights, kind, stats)
        out = dispatch.load("separable_conv", backend)(*args)
        back = dispatch.load("separable_conv_backward", backend)
        return [*out, *back(*out, *out[:2], *args)]

    @pytest.mark.parametrize("backend", ["cpu", "triton"])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_bits_depend_on_nothing_else(self, shape, backend):
        device = device_for("separable_conv", backend, torch.float32)
        x, *weights, kind, _ = OPS["separable_conv"].make_inputs(shape, device, torch.float32)
        whole = self.all_of(x, weights, kind, True, backend)
        assert_same(whole, self.all_of(x, weights, kind, True, backend))
        # gradients that come by way of the statistics are the batch's
        whole = self.all_of(x, weights, kind, False, backend)
        few = self.all_of(x[5:8], weights, kind, False, backend)
        assert_same((few[0], few[3]), (whole[0][5:8], whole[3][5:8]))

    @pytest.mark.parametrize("backend", ["cpu", "triton"])
    def test_variance_of_what_hardly_varies(self, backend, monkeypatch):
        device = device_for("separable_conv", backend, torch.float32)
        if backend == "triton":  # fewer than there are tiles
            monkeypatch.setattr(importlib.import_module("tsgen.kernels._moments"), "PARTS", 4)
        x = (1000 + torch.randn(70, 1, 1, 64)).to(device)
        one = torch.ones(1, device=device)
        inputs = x, None, None, None, None, None, one.view(1, 1, 1, 1), 0 * one, "none", True
        _, mean_O, var_O = run("separable_conv", inputs, backend)
        torch.testing.assert_close(mean_O.double(), x.double().mean()[None], rtol=1e-6, atol=0)
        var = x.double().var(correction=0)[None]
        torch.testing.assert_close(var_O.double(), var, rtol=1e-4, atol=0)

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_triton_tiles_of_halves(self, shape):
        """Not those of float32. float16 is what the interpreter can do of both halves."""
        device = device_for("separable_conv", "triton", torch.float32)
        x, *weights, kind, _ = OPS["separable_conv"].make_inputs(shape, device, torch.float32)
        x = x.to(torch.float16)
        out = self.all_of(x, weights, kind, False, "triton")
        leaves = [None if t is None else t.double().requires_grad_() for t in (x, *weights)]
        ref = OPS["separable_conv"].reference(*leaves, kind, False).y
        given = [t for t in leaves if t is not None]
        ref_grads = torch.autograd.grad(ref, given, out[0].double())
        found = [t for t in out if t.numel()]
        for a, b in zip(found, (ref, *ref_grads), strict=True):
            assert (a.double() - b).abs().amax() <= 1e-2 * b.abs().amax(), a.shape


class TestDropout:
    def test_drops_as_many_as_asked(self):
        n = 1 << 20
        for p in (0.0, 2**-16, 0.1, 0.5, 0.9):
            dropped = n - kept(7, p=p).sum().item()
            assert abs(dropped - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + n * 2**-17

    def test_mean_is_that_of_x(self):
        for p in (0.1, 0.3, 0.7):
            out = ops.dropout(torch.ones(1 << 20), p, torch.tensor([3])).double()
            assert out.mean().item() == pytest.approx(1, abs=5 * math.sqrt(p / (1 - p)) / 1024)

    def test_neighbours_and_seeds_are_independent(self):
        n, p = 1 << 20, 0.3
        first = kept(1, n) - (1 - p)
        others = {lag: first.roll(lag) for lag in (1, 2, 8, 15, 16, 64, 128, 2048)}
        others |= {f"seed {seed}": kept(seed, n) - (1 - p) for seed in (0, 2, 1 + 2**32, -1)}
        for name, other in others.items():
            correlation = (first * other).mean().item() / (p * (1 - p))
            assert abs(correlation) <= 5 / math.sqrt(n), name

    def test_decisions_depend_on_seed_and_place_alone(self, isa):
        whole = kept(5, 50_001, backend="cpu")
        assert torch.equal(whole, kept(5, 50_001, backend="torch"))
        assert torch.equal(whole[:777], kept(5, 777, backend="cpu"))
        with threads(3):
            assert torch.equal(whole, kept(5, 50_001, backend="cpu"))

    @pytest.mark.parametrize("backend", dispatch.TABLE["dropout"])
    def test_what_is_dropped_is_0_whatever_it_was(self, backend):
        device_for("dropout", backend, torch.float32)
        out = ops.dropout(
            torch.full((999,), torch.nan), 0.5, torch.tensor([1]), torch.ones(999), backend=backend
        )
        assert out.isnan().any()
        assert (out[~out.isnan()] == 1).all()

    def test_residual_of_another_dtype_is_promoted(self):
        x = torch.ones(5, dtype=torch.bfloat16, requires_grad=True)
        out = ops.dropout(x, 0.0, torch.tensor([1]), torch.ones(5))
        assert out.dtype == torch.float32
        out.sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == torch.bfloat16


class TestMaskedCrossEntropy:
    def test_threads_do_not_matter(self):
        device_for("masked_cross_entropy", "cpu", torch.float32)
        inputs = OPS["masked_cross_entropy"].make_inputs(
            (2500, 2300, 100, 30, True), "cpu", torch.float32
        )
        gradients = torch.ops.tsgen.masked_cross_entropy_backward.default
        alone = gradients(*inputs, backend="cpu")
        assert alone[0] == run("masked_cross_entropy", inputs, "cpu")
        with threads(3):
            assert_same(alone, gradients(*inputs, backend="cpu"))

    def test_refuses_ids_that_do_not_exist(self):
        device_for("masked_cross_entropy", "cpu", torch.float32)
        h_MD, weight_KD, id_1 = torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([1])
        for rows_R, target_R in ((id_1 + 1, id_1), (-id_1, id_1), (id_1, id_1 + 3), (id_1, -id_1)):
            with pytest.raises(ValueError, match="wanted ids from 0 to"):
                ops.masked_cross_entropy(h_MD, weight_KD, None, rows_R, target_R, backend="cpu")

    @pytest.mark.parametrize("backend", ["triton", "cuda"])
    def test_ids_that_do_not_exist_flag_the_loss_on_a_gpu(self, backend):
        if device_for("masked_cross_entropy", backend, torch.float32) != "cuda":
            pytest.skip("on the CPU they are refused")
        h_MD, weight_KD, id_1 = (
            t.cuda() for t in (torch.ones(2, 3), torch.ones(4, 3), torch.tensor([1]))
        )
        for rows_R, target_R in ((id_1 + 1, id_1), (-id_1, id_1), (id_1, id_1 + 3), (id_1, -id_1)):
            gradients = torch.ops.tsgen.masked_cross_entropy_backward.default
            loss, *grads = gradients(h_MD, weight_KD, None, rows_R, target_R, backend=backend)
            assert loss.isnan()
            assert all(grad.isfinite().all() for grad in grads)
