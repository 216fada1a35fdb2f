"""What no test of all ops can say: ties, NaN, laws, and one result for any batch and threads."""

import pytest
import torch
from op_behaviour import assert_same
from test_ops import OPS, check_gradients, check_values, device_for
from torch import Tensor

from tsgen import dispatch, ops


class TestStft:
    def test_istft_undoes_it(self):
        x_BCL = torch.randn(3, 2, 101, dtype=torch.float64)
        window_W = torch.hann_window(8, dtype=torch.float64)
        planes = ops.stft(x_BCL, window_W, 2)
        back = ops.istft(planes, window_W, 2, 0, 101)
        torch.testing.assert_close(back, x_BCL, rtol=0, atol=1e-12)

    def test_rows_add_up(self):
        x_BCL = torch.randn(2, 1, 64, dtype=torch.float64)
        window_W = torch.hann_window(4, dtype=torch.float64)
        low = ops.istft(ops.stft(x_BCL, window_W, 1, (0, 1)), window_W, 1, 0, 64)
        high = ops.istft(ops.stft(x_BCL, window_W, 1, (1, 3)), window_W, 1, 1, 64)
        torch.testing.assert_close(low + high, x_BCL, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("backend", dispatch.TABLE["stft"])
    @pytest.mark.parametrize("W", [4, 16])
    def test_nan_stays_in_its_frames(self, backend, W):
        device = device_for("stft", backend, torch.float32)
        x_BCL = torch.zeros(2, 1, 32, device=device)
        x_BCL[0, 0, 16] = torch.nan
        planes = ops.stft(x_BCL, torch.ones(W, device=device), 1, backend=backend)
        bad_BT = planes.isnan().any(dim=(1, 2))
        assert bad_BT[0].nonzero().flatten().tolist() == list(range(17 - W // 2, 17 + W // 2))
        assert not bad_BT[1].any()

    @pytest.mark.parametrize("backend", dispatch.TABLE["istft"])
    def test_no_window_reaches_between_far_frames(self, backend):
        device = device_for("istft", backend, torch.float32)
        window_W = torch.ones(4, device=device)
        x_BCL = torch.randn(2, 1, 36, device=device, requires_grad=True)
        planes = ops.stft(x_BCL, window_W, 7, backend=backend)
        back = ops.istft(planes, window_W, 7, 0, 36, backend=backend)
        # frame t has samples 7 t - 2 to 7 t + 1
        reached_L = torch.tensor([(l + 2) % 7 < 4 for l in range(36)], device=device)
        torch.testing.assert_close(back, x_BCL * reached_L, rtol=0, atol=1e-6)
        back.sum().backward()
        torch.testing.assert_close(x_BCL.grad, reached_L.expand(2, 1, 36).float())

    # Triton's interpreter would take minutes
    @pytest.mark.parametrize("backend", ["cpu", "cuda"])
    @pytest.mark.parametrize("W", [2, 4, 8, 16, 32, 64, 67])
    def test_any_hop(self, backend, W, monkeypatch):
        """Up to one that leaves samples out, and series that end within a block or fill two."""
        for hop in (1, W // 2, W, W + 3):
            L = max(300, 2 * hop) // hop * hop + W // 2
            shapes = [(3, 1, length, W, hop, 0, W // 2 + 1) for length in (hop + W // 2, L)]
            for name in ("stft", "istft"):
                for shape in shapes:
                    check_values(name, backend, torch.float32, shape)
                monkeypatch.setattr(OPS[name], "TEST_SHAPES", shapes)
                check_gradients(name, backend)

    @pytest.mark.parametrize("backend", ["cpu", "cuda"])
    def test_series_end_anywhere_in_a_block(self, backend, monkeypatch):
        """Mirror images at an end need frames that come after those of the sample itself."""
        for name in ("stft", "istft"):
            shapes = [(1, 1, L, 8, 2, 0, 5) for L in range(232, 260, 2)]
            monkeypatch.setattr(OPS[name], "TEST_SHAPES", shapes)
            check_gradients(name, backend)

    @pytest.mark.parametrize("backend", [b for b in dispatch.TABLE["stft"] if b != "torch"])
    @pytest.mark.parametrize(("L", "W", "hop"), [(333, 4, 1), (200, 16, 4), (40, 7, 3)])
    def test_bits_of_a_series_do_not_depend_on_others(self, backend, L, W, hop):
        device = device_for("stft", backend, torch.float32)
        window_W = (torch.hann_window(W) + 0.1).to(device)
        x_BCL = torch.randn(9, 1, L).to(device)
        stft, istft, stft_backward, istft_backward = (
            dispatch.load(op, backend)
            for op in ("stft", "istft", "stft_backward", "istft_backward")
        )

        def everything(x_BCL: Tensor) -> list[Tensor]:
            planes = stft(x_BCL, window_W, hop, 1, W // 2 + 1)
            reach = min(L, (planes.shape[3] - 1) * hop + (W + 1) // 2)
            back = istft(planes, window_W, hop, 1, reach)
            grad_x = stft_backward(planes, window_W, hop, 1, L)
            grad_planes = istft_backward(back, window_W, hop, 1, *planes.shape[2:])
            return [planes, back, grad_x, grad_planes]

        together = everything(x_BCL)
        for few in (slice(0, 1), slice(4, 6), slice(8, 9)):
            assert_same(everything(x_BCL[few]), [out[few] for out in together])

    @pytest.mark.parametrize(("L", "W", "hop"), [(333, 4, 1), (600, 16, 4), (150, 7, 3)])
    def test_neither_threads_nor_the_batch_change_a_bit(self, L, W, hop):
        device_for("stft", "cpu", torch.float32)
        window_W = torch.hann_window(W) + 0.1
        x_BCL = torch.randn(150, 1, L)
        n_threads = torch.get_num_threads()

        def everything(x_BCL: Tensor, n_threads: int) -> list[Tensor]:
            torch.set_num_threads(n_threads)
            x_BCL = x_BCL.clone().requires_grad_()
            planes = ops.stft(x_BCL, window_W, hop, backend="cpu")
            inner = planes.detach().requires_grad_()
            reach = min(L, (planes.shape[3] - 1) * hop + (W + 1) // 2)
            back = ops.istft(inner, window_W, hop, 0, reach, backend="cpu")
            (planes * planes.detach()).sum().backward()
            (back * back.detach()).sum().backward()
            return [planes.detach(), back.detach(), x_BCL.grad, inner.grad]

        try:
            alone = everything(x_BCL, 1)
            for together, single, few in zip(
                everything(x_BCL, 3), alone, everything(x_BCL[70:73], 1), strict=True
            ):
                assert torch.equal(together, single)
                assert torch.equal(few, single[70:73])
        finally:
            torch.set_num_threads(n_threads)


class TestNearestCode:
    @pytest.mark.parametrize("backend", dispatch.TABLE["nearest_code"])
    @pytest.mark.parametrize(("K", "times"), [(200, 1), (700, 1), (200, 7)])
    def test_tie_goes_to_the_lowest_index(self, backend, K, times):
        device = device_for("nearest_code", backend, torch.float32)
        rng = torch.Generator().manual_seed(0)
        x_ND = torch.randint(-2, 3, (100, 3), generator=rng).repeat(1, times)
        codes_KD = torch.randint(-2, 3, (K, 3), generator=rng)  # 125 places: many duplicates
        codes_KD = codes_KD.repeat(1, times)
        best_N = (x_ND[:, None] - codes_KD).square().sum(-1).argmin(-1)
        # small integers are exact in float32 in any order of summation: no tolerance
        found = ops.nearest_code(
            x_ND.float().to(device), codes_KD.float().to(device), backend=backend
        )
        assert torch.equal(found.ids_N.cpu(), best_N)

    def test_tie_on_every_instruction_set(self, isa):
        for K in (200, 700):
            self.test_tie_goes_to_the_lowest_index("cpu", K, 1)

    @pytest.mark.parametrize("backend", dispatch.TABLE["nearest_code"])
    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize(("K", "D"), [(6, 3), (700, 3), (70, 40)])
    @pytest.mark.filterwarnings(
        "ignore:(invalid|All-NaN):RuntimeWarning"
    )  # of Triton's interpreter
    def test_what_is_not_finite_is_flagged_and_never_wins(self, backend, bad, K, D):
        device = device_for("nearest_code", backend, torch.float32)
        codes_KD = torch.randn(K, D)
        x_ND = codes_KD[1:6].clone()
        x_ND[2, 1], codes_KD[0, 0] = bad, bad
        found = ops.nearest_code(x_ND.to(device), codes_KD.to(device), stats=True, backend=backend)
        assert found.distance_N.isnan().tolist() == [False, False, True, False, False]
        assert found.ids_N.tolist() == [1, 2, 0, 4, 5]
        assert found.counts_K.sum() == 4
        assert found.sums_KD.isfinite().all()

    @pytest.mark.parametrize("backend", dispatch.TABLE["nearest_code"])
    @pytest.mark.parametrize("K", [20, 700])
    def test_distance_to_itself_is_zero(self, backend, K):
        device = device_for("nearest_code", backend, torch.float32)
        codes_KD = (torch.randn(K, 5) + 100).to(device)
        found = ops.nearest_code(codes_KD, codes_KD, backend=backend)
        assert (found.distance_N == 0).sum() > 0.9 * K  # the others: a neighbour ties in float32

    @pytest.mark.parametrize("K", [40, 900])
    def test_neither_batch_nor_threads_change_a_bit(self, K):
        device_for("nearest_code", "cpu", torch.float32)
        x_ND, codes_KD = torch.randn(4000, 24), torch.randn(K, 24)
        x_ND[::100] = torch.inf
        whole = ops.nearest_code(x_ND, codes_KD, stats=True, backend="cpu")
        n_threads = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            shared = ops.nearest_code(x_ND, codes_KD, stats=True, backend="cpu")
            split = ops.nearest_code(x_ND, codes_KD, backend="cpu")
        finally:
            torch.set_num_threads(n_threads)
        torch.testing.assert_close(tuple(shared), tuple(whole), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(split[:2], whole[:2], rtol=0, atol=0, equal_nan=True)
        for n in (0, 1, 31, 100, 3999):
            alone = ops.nearest_code(x_ND[n : n + 1], codes_KD, backend="cpu")
            one = whole.ids_N[n : n + 1], whole.distance_N[n : n + 1]
            torch.testing.assert_close(alone[:2], one, rtol=0, atol=0, equal_nan=True)

    @pytest.mark.parametrize("dtype", dispatch.TABLE["nearest_code"]["cuda"])
    def test_cuda_searches_in_float32_whatever_it_sweeps_in(self, dtype):
        device = device_for("nearest_code", "cuda", dtype)
        rng = torch.Generator().manual_seed(0)
        codes_KD = torch.randn(40, 12, generator=rng).repeat(8, 1)
        codes_KD += 0.01 * torch.randn(320, 12, generator=rng)  # too close for bfloat16
        x_ND = codes_KD[:150] + 0.01 * torch.randn(150, 12, generator=rng)
        x_ND, codes_KD = x_ND.to(device, dtype), codes_KD.to(device, dtype)

        def search(x_ND: Tensor, codes_KD: Tensor) -> tuple[Tensor, Tensor]:
            return ops.nearest_code(x_ND, codes_KD, backend="cuda")[:2]

        ids_N, distance_N = search(x_ND, codes_KD)
        true_NK = (x_ND.double()[:, None] - codes_KD.double()).square().sum(-1)
        assert (true_NK.gather(1, ids_N[:, None])[:, 0] <= true_NK.amin(1) * (1 + 2e-6)).all()
        for zeros in (12, 36, 60):  # other kernels, more roundings before the last
            wide = [torch.nn.functional.pad(t, (0, zeros)) for t in (x_ND, codes_KD)]
            assert_same(search(*wide), (ids_N, distance_N))
        assert_same(search(x_ND.float(), codes_KD.float()), (ids_N, distance_N))
        assert_same(search(x_ND[70:75], codes_KD), (ids_N[70:75], distance_N[70:75]))


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda: ops.stft(torch.zeros(2, 4), torch.ones(4), 1), r"x: wanted \(B, C, L\), got"),
        (lambda: ops.stft(torch.zeros(1, 1, 2), torch.ones(4), 1), "more than 2 samples, got 2"),
        (lambda: ops.stft(torch.zeros(1, 1, 9), torch.ones(4), 0), "hop: wanted at least 1"),
        (lambda: ops.stft(torch.zeros(1, 1, 9), torch.ones(4), 1, (1, 9)), "end <= 3, got"),
        (lambda: ops.istft(torch.zeros(1, 3, 3, 5), torch.ones(4), 1, 0, 4), "planes: wanted"),
        (lambda: ops.istft(torch.zeros(1, 2, 3, 5), torch.ones(4), 1, 0, 7), "length: wanted 1"),
        (lambda: ops.nearest_code(torch.zeros(2, 4), torch.zeros(3, 5)), r"got \(2, 4\) and"),
        (lambda: ops.nearest_code(torch.zeros(2, 4), torch.zeros(0, 4)), "2 - 1|got 0"),
        (lambda: ops.nearest_code(torch.zeros(2, 4), torch.zeros(3, 4).double()), "one dtype"),
        (
            lambda: ops.nearest_code(torch.zeros(2, 4), torch.zeros(3, 4), backend="numpy"),
            "does not exist; there are torch",
        ),
        (
            lambda: ops.attention(*[torch.zeros(1, 2, 3, 4)] * 3, q_scale_D=torch.ones(4)),
            "both or neither",
        ),
        (
            lambda: ops.sample_code(torch.zeros(2, 3), torch.zeros(2)),
            r"\(R,\) torch.float64, got",
        ),
        (
            lambda: ops.sample_code(
                torch.zeros(2, 3), torch.zeros(2, dtype=torch.float64), temperature=-1
            ),
            "temperature: wanted a finite number from 0 on, got -1",
        ),
        (
            lambda: ops.keep_confident(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)),
            r"\(B, N\) and \(B,\), got",
        ),
        (
            lambda: ops.masked_cross_entropy(
                torch.zeros(2, 3),
                torch.zeros(4, 3),
                None,
                torch.zeros(1, dtype=torch.int64),
                torch.zeros(2, dtype=torch.int64),
            ),
            "rows, target",
        ),
        (
            lambda: ops.sum_taps(torch.ones(1, 3, 0, 2), torch.tensor([0]), torch.ones(2)),
            r"products: wanted \(B, M, T, F\), none of them 0, got \(1, 3, 0, 2\)",
        ),
        (
            lambda: ops.sum_taps(torch.ones(1, 3, 1, 2), torch.tensor([0]), torch.ones(3)),
            r"bias: wanted \(2,\), got \(3,\)",
        ),
        (
            lambda: ops.dropout(torch.ones(2), 1.0, torch.tensor([1])),
            "p: wanted a number from 0 and below 1, got 1.0",
        ),
        (lambda: ops.dropout(torch.ones(2), 0.1, torch.tensor(1)), r"seed: wanted \(1,\)"),
        (
            lambda: ops.dropout(torch.ones(2), 0.1, torch.tensor([1]), torch.ones(3)),
            r"residual: wanted \(2,\), got \(3,\)",
        ),
        (lambda: ops.snake(torch.zeros(2, 3, 4), torch.ones(4)), r"a: wanted \(3,\), got \(4,\)"),
    ],
)
def test_says_what_was_wanted_and_what_came(fn, message):
    with pytest.raises(ValueError, match=message):
        fn()
