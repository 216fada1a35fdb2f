"""As test_op_behaviour.py, for attention."""

from typing import Any

import pytest
import torch
from op_behaviour import assert_same
from test_ops import OPS, device_for
from torch import Tensor

from tsgen import dispatch, ops
from tsgen.errors import RunError


class TestAttention:
    def test_no_key_gives_zero_and_no_nan_gradient(self):
        q = torch.randn(2, 1, 3, 4, requires_grad=True)
        out = ops.attention(q, q, q, lengths_B=torch.tensor([0, 2]))
        assert not out[0].any()
        out.sum().backward()
        assert q.grad is not None
        assert q.grad.isfinite().all()

    def test_more_sequences_than_a_grid_dimension_holds(self):
        q = torch.randn(70_000, 1, 2, 4)
        out = ops.attention(q, q, q)
        torch.testing.assert_close(out[-1:], ops.attention(q[-1:], q[-1:], q[-1:]))

    @staticmethod
    def all_of(inputs: Any, backend: str = "cpu") -> list[Tensor]:
        """The output and the gradients of every input."""
        leaves = [t.detach().requires_grad_() if t is not None else t for t in inputs[:6]]
        out = ops.attention(*leaves, inputs[6], backend=backend)
        given = [t for t in leaves if t is not None]
        return [out, *torch.autograd.grad(out.sin().sum(), given)]

    @pytest.mark.parametrize("shape", OPS["attention"].TEST_SHAPES[1:], ids=str)
    def test_scratch_memory_keeps_no_secrets(self, shape):
        device_for("attention", "cpu", torch.float32)
        inputs = OPS["attention"].make_inputs(shape, "cpu", torch.float32)
        ref = self.all_of(inputs)
        bad = [t * torch.nan if t is not None else t for t in inputs[:6]]
        assert self.all_of([*bad, None])[0].isnan().all()  # and leaves it in freed memory
        for out, again in zip(ref, self.all_of(inputs), strict=True):
            assert torch.equal(out, again)

    @pytest.mark.parametrize("shape", OPS["attention"].TEST_SHAPES[3:], ids=str)
    def test_bits_depend_on_neither_batch_nor_threads(self, shape):
        device_for("attention", "cpu", torch.float32)
        inputs = OPS["attention"].make_inputs((40, *shape[1:]), "cpu", torch.float32)
        q, k, v, *shared, lengths = inputs
        whole = self.all_of(inputs)
        part = [None if t is None else t[7:12] for t in (q, k, v, lengths)]
        for a, b in zip(whole[:4], self.all_of([*part[:3], *shared, part[3]])[:4], strict=True):
            assert torch.equal(a[7:12], b)
        n_threads = torch.get_num_threads()
        try:
            torch.set_num_threads(5)
            for a, b in zip(whole, self.all_of(inputs), strict=True):
                assert torch.equal(a, b)
        finally:
            torch.set_num_threads(n_threads)

    @pytest.mark.parametrize("backend", dispatch.TABLE["attention"])
    def test_nan_stays_in_its_row(self, backend):
        device = device_for("attention", backend, torch.float32)
        inputs = OPS["attention"].make_inputs(
            (3, 2, 21, 21, 16, True, True, False), device, torch.float32
        )
        q, k = inputs[0].clone(), inputs[1].clone()
        q[0, 1, 5, 3] = torch.nan
        k[2, 0, 20, 0] = torch.nan
        bad = ops.attention(q, k, *inputs[2:], backend=backend).isnan().all(-1).cpu()
        wanted = torch.zeros(3, 2, 21, dtype=torch.bool)
        wanted[0, 1, 5] = wanted[2, 0] = True
        assert torch.equal(bad, wanted)

    @pytest.mark.parametrize("backend", dispatch.TABLE["attention"])
    @pytest.mark.parametrize("N", [9, 40])
    def test_nan_value_stays_in_its_sequence(self, backend, N):
        device = device_for("attention", backend, torch.float32)
        inputs = OPS["attention"].make_inputs(
            (5, 2, N, N, 16, True, True, False), device, torch.float32
        )
        q, k, v, *shared = inputs
        v = v.clone()
        v[3, 1, 2] = torch.nan
        bad = ops.attention(q, k, v, *shared, backend=backend).isnan().any(-1).any(-1)
        assert bad.nonzero().tolist() == [[3, 1]]

    @pytest.mark.parametrize("backend", ["triton", "cuda"])
    @pytest.mark.parametrize("N", [9, 17, 40, 70, 130])
    def test_tiles_of_halves(self, backend, N):
        """Not those of float32. float16 is what the interpreter can do of both halves."""
        device, f16 = device_for("attention", backend, torch.float32), torch.float16
        inputs = OPS["attention"].make_inputs((3, 1, N, N, 16, True, True, True), device, f16)
        grad = torch.randn(3, 1, N, 16, device=device).to(f16)
        out = dispatch.load("attention", backend)(*inputs)
        grads = dispatch.load("attention_backward", backend)(grad, *inputs)
        leaves = [t.double().requires_grad_() for t in inputs[:6]]
        ref = OPS["attention"].reference(*leaves, inputs[6])
        ref_grads = torch.autograd.grad(ref, leaves, grad.double())
        for a, b in zip((out, *grads), (ref, *ref_grads), strict=True):
            assert (a.double() - b).abs().amax() <= 1e-2 * b.abs().amax(), a.shape

    @pytest.mark.parametrize("backend", ["triton", "cuda"])
    @pytest.mark.parametrize("N", [9, 40])
    def test_bits_do_not_depend_on_the_batch(self, backend, N):
        device = device_for("attention", backend, torch.float32)
        inputs = OPS["attention"].make_inputs(
            (5, 1, N, N, 16, True, True, True), device, torch.float32
        )
        q, k, v, *shared, lengths = inputs
        whole = self.all_of(inputs, backend)[:4]
        few = self.all_of([*(t[2:4] for t in (q, k, v)), *shared, lengths[2:4]], backend)[:4]
        assert_same(few, [t[2:4] for t in whole])

    def test_wide_heads_pass_the_cuda_kernel_over(self, monkeypatch):
        device = device_for("attention", "cuda", torch.float32)
        monkeypatch.setitem(dispatch.PREFERENCE, device, ("cuda", "torch"))
        dispatch._choose.cache_clear()
        q = torch.randn(2, 1, 5, 65, device=device)
        out, ref = (ops.attention(q, q, q, backend=backend) for backend in (None, "torch"))
        dispatch._choose.cache_clear()
        assert torch.equal(out, ref)
        with pytest.raises(RunError, match="at most 64 dims of a head"):
            ops.attention(q, q, q, backend="cuda")

    @pytest.mark.parametrize("backend", dispatch.TABLE["attention"])
    def test_lengths_cut_sequences_off(self, backend):
        device = device_for("attention", backend, torch.float32)
        inputs = OPS["attention"].make_inputs(
            (4, 2, 21, 21, 16, True, True, False), device, torch.float32
        )
        lengths_B = torch.tensor([0, 3, 20, 21]).to(device)
        q, k, v, *shared, _ = inputs
        out = ops.attention(q, k, v, *shared, lengths_B, backend=backend)
        for b, n in enumerate(lengths_B.tolist()):
            one = [t[b : b + 1] for t in (q, k[:, :, :n], v[:, :, :n])]
            alone = ops.attention(*one, *shared, backend=backend)
            torch.testing.assert_close(out[b : b + 1], alone)
