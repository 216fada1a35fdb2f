"""The rotation's gradient against its paper."""

import pytest
import torch
import torch.nn.functional as F
from test_quantisers import latents, of_dims
from torch.testing import assert_close

from tsgen.quantisers.gradient import GRADIENTS, rotate

pytestmark = pytest.mark.usefixtures("same_numbers")


class TestRotation:
    def test_is_the_rotation_by_rodrigues_formula(self):
        """In the plane of x and q, about the axis x × q, by the angle between them."""
        for x, q in zip(latents(50)[0], latents(50)[0], strict=True):
            axis = torch.linalg.cross(x, q)
            sine, cosine = axis.norm() / (x.norm() * q.norm()), x @ q / (x.norm() * q.norm())
            a, b, c = (axis / axis.norm()).tolist()
            K = torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]], dtype=torch.float64)
            R = torch.eye(3, dtype=torch.float64) + sine * K + (1 - cosine) * (K @ K)
            wanted = q.norm() / x.norm() * R

            def turned(v, q=q):
                return GRADIENTS["rotation"](v[None], q[None])[0]

            assert_close(
                torch.autograd.functional.jacobian(turned, x), wanted, rtol=1e-9, atol=1e-9
            )
            assert_close(turned(x), q, rtol=1e-12, atol=1e-12)

    def test_keeps_the_angle_between_gradient_and_vector(self):
        """What the paper is after: Fifty et al. 2024, section 4.3."""
        x, q = latents(40, 8)[0].requires_grad_(), latents(40, 8)[0]
        grad = torch.randn_like(q)
        (back,) = torch.autograd.grad(GRADIENTS["rotation"](x, q), x, grad)
        cosine = F.cosine_similarity
        assert_close(cosine(back, x.detach()), cosine(grad, q))
        assert_close(back.norm(dim=1), grad.norm(dim=1) * q.norm(dim=1) / x.detach().norm(dim=1))

    def test_is_finite_and_exact_at_its_edges(self):
        x = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 0], [3, 4]], dtype=torch.float64)
        q = torch.tensor([[-2.0, 0], [2, 0], [0, 0], [1, 1], [3, 4]], dtype=torch.float64)
        x.requires_grad_()
        out = GRADIENTS["rotation"](x, q)
        (back,) = torch.autograd.grad(out.sum(), x)
        assert_close(out.detach(), q)
        assert_close(rotate(x, q).detach()[[0, 1, 2, 4]], q[[0, 1, 2, 4]])
        # ∂q/∂x by hand: a reflection and twice as long, the same, nothing, x = 0, unchanged
        wanted = [[-2.0, 2], [2, 2], [0, 0], [1, 1], [1, 1]]
        assert_close(back, torch.tensor(wanted, dtype=torch.float64))

    def test_straight_through_changes_nothing(self):
        x, q = latents(9)[0].requires_grad_(), latents(9)[0]
        grad = torch.randn_like(q)
        assert_close(torch.autograd.grad(GRADIENTS["straight_through"](x, q), x, grad)[0], grad)

    @pytest.mark.parametrize("codebook", ["euclidean", "cosine", "residual"])
    def test_passes_a_quantiser(self, codebook):
        book, z = of_dims(codebook=codebook, gradient="rotation"), latents(30).requires_grad_()
        book(z)  # k-means
        codes = book.codes().clone()  # before this batch moves them
        out = book(z)
        x = book.down(z)
        q = book.chosen(book.search(x.detach(), codes, stats=False).ids_N, codes)[-1]
        grad = torch.randn_like(q)
        (wanted,) = torch.autograd.grad(rotate(x, q), z, grad)
        (got,) = torch.autograd.grad(out.z_BND, z, grad[None])
        assert_close(out.z_BND[0].detach(), q)
        assert_close(got, wanted)
