"""Self-supervised objectives: the papers' equations, gradients, and what collapse looks like."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tsgen import ssl
from tsgen.config import OBJECTIVES, SslConfig
from tsgen.errors import ArgumentError, ArgumentTypeError
from tsgen.ssl import barlow_twins, byol, heads, simsiam, vibcreg, vicreg
from tsgen.ssl.collapse import effective_rank, feature_std
from tsgen.ssl.siamese import Siamese, cosine

B, E = 7, 5


def embeddings(seed: int = 0, batch: int = B, width: int = E, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, width, generator=rng, dtype=torch.float64)
    b = a + 0.5 * torch.randn(batch, width, generator=rng, dtype=torch.float64)
    return a.to(dtype), b.to(dtype)


# The equations as the papers print them, one number at a time.


def barlow_twins_equation(a: np.ndarray, b: np.ndarray) -> float:
    """Zbontar et al. 2021, equations 1 and 2."""
    a, b = a - a.mean(0), b - b.mean(0)
    total = 0.0
    for i in range(a.shape[1]):
        for j in range(a.shape[1]):
            norms = np.sqrt((a[:, i] ** 2).sum()) * np.sqrt((b[:, j] ** 2).sum())
            c = (a[:, i] * b[:, j]).sum() / norms
            total += (1 - c) ** 2 if i == j else 5e-3 * c**2
    return total


def variance_equation(z: np.ndarray) -> float:
    """Bardes et al. 2022, equations 1 and 2."""
    n, d = z.shape
    spread = [np.sqrt(((z[:, j] - z[:, j].mean()) ** 2).sum() / (n - 1) + 1e-4) for j in range(d)]
    return sum(max(0.0, 1 - s) for s in spread) / d


def vicreg_equation(a: np.ndarray, b: np.ndarray) -> float:
    """Bardes et al. 2022, equations 3 to 6; the mean square error of algorithm 1."""

    def covariance(z: np.ndarray) -> float:
        n, d = z.shape
        c = sum(np.outer(row - z.mean(0), row - z.mean(0)) for row in z) / (n - 1)
        return sum(c[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d

    invariance = sum(((x - y) ** 2).sum() for x, y in zip(a, b, strict=True)) / a.size
    spread = variance_equation(a) + variance_equation(b)
    return 25 * invariance + 25 * spread + covariance(a) + covariance(b)


def vibcreg_equation(a: np.ndarray, b: np.ndarray) -> float:
    """Lee and Aune 2021: covariance of columns of length 1, over the width squared."""

    def covariance(z: np.ndarray) -> float:
        d = z.shape[1]
        unit = [(z[:, j] - z[:, j].mean()) for j in range(d)]
        unit = [column / np.sqrt((column**2).sum()) for column in unit]
        pairs = [(i, j) for i in range(d) for j in range(d) if i != j]
        return sum((unit[i] * unit[j]).sum() ** 2 for i, j in pairs) / d**2

    invariance = sum(((x - y) ** 2).sum() for x, y in zip(a, b, strict=True)) / a.size
    spread = variance_equation(a) + variance_equation(b)
    return 25 * invariance + 25 * spread + 100 * (covariance(a) + covariance(b))


def cosines(p: np.ndarray, z: np.ndarray) -> list[float]:
    pairs = zip(p, z, strict=True)
    return [(x / np.sqrt((x**2).sum()) * (y / np.sqrt((y**2).sum()))).sum() for x, y in pairs]


def byol_equation(p_a, p_b, z_a, z_b) -> float:
    """Grill et al. 2020, equation 2, and the same with the views exchanged."""
    total = 0.0
    for p, z in ((p_a, z_b), (p_b, z_a)):
        unit_p = p / np.sqrt((p**2).sum(1, keepdims=True))
        unit_z = z / np.sqrt((z**2).sum(1, keepdims=True))
        total += ((unit_p - unit_z) ** 2).sum(1).mean()
    return total


def simsiam_equation(p_a, p_b, z_a, z_b) -> float:
    """Chen and He 2021, equations 1 and 2."""
    return -np.mean(cosines(p_a, z_b)) / 2 - np.mean(cosines(p_b, z_a)) / 2


JOINT = {
    barlow_twins: barlow_twins_equation,
    vicreg: vicreg_equation,
    vibcreg: vibcreg_equation,
}
ACROSS = {byol: byol_equation, simsiam: simsiam_equation}


def joint_name(module) -> str:
    return module.__name__.rpartition(".")[2]


@pytest.mark.parametrize("module", JOINT, ids=joint_name)
class TestJointEmbedding:
    @pytest.mark.parametrize(("batch", "width"), [(7, 5), (4, 9), (2, 2), (32, 16)])
    @pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
    def test_is_the_papers_equation(self, module, batch, width, dtype, near):
        a, b = embeddings(batch + width, batch, width, dtype)
        wanted = JOINT[module](a.double().numpy(), b.double().numpy())
        assert float(module.loss(a, b)) == pytest.approx(wanted, rel=near)

    def test_gradient(self, module):
        a, b = (x.requires_grad_() for x in embeddings(3))
        assert torch.autograd.gradcheck(module.loss, (a, b))

    def test_is_finite_where_all_series_are_alike(self, module):
        a = torch.ones(B, E, requires_grad=True)
        loss = module.loss(a, a)
        loss.backward()
        assert loss.isfinite()
        assert a.grad.isfinite().all()

    def test_the_gradient_reaches_both_views(self, module):
        made = module.objective(6, SslConfig(joint_name(module), projector_width=8))
        a, b = (torch.randn(B, 6, requires_grad=True) for _ in range(2))
        made(a, b).loss.backward()
        assert a.grad.abs().sum() > 0
        assert b.grad.abs().sum() > 0


@pytest.mark.parametrize("module", ACROSS, ids=joint_name)
class TestSiamese:
    @pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
    def test_is_the_papers_equation(self, module, dtype, near):
        p_a, p_b = embeddings(1, dtype=dtype)
        z_a, z_b = embeddings(2, dtype=dtype)
        wanted = ACROSS[module](*(x.double().numpy() for x in (p_a, p_b, z_a, z_b)))
        got = module.loss(cosine(p_a, z_b), cosine(p_b, z_a))
        assert float(got) == pytest.approx(wanted, rel=near)

    def test_gradient(self, module):
        p_a, p_b = (x.requires_grad_() for x in embeddings(1))
        z_a, z_b = embeddings(2)

        def loss(p_a: Tensor, p_b: Tensor) -> Tensor:
            return module.loss(cosine(p_a, z_b), cosine(p_b, z_a))

        assert torch.autograd.gradcheck(loss, (p_a, p_b))

    def test_predicts_the_other_view_and_no_gradient_reaches_what_is_predicted(self, module):
        """One of the two terms alone: a is predicted from, b is predicted."""
        made = module.objective(6, SslConfig(joint_name(module), projector_width=8))
        made.loss = lambda cos_a_B, cos_b_B: cos_a_B.sum()
        a, b = (torch.randn(B, 6, requires_grad=True) for _ in range(2))
        slow = [torch.randn(B, 8, requires_grad=True) for _ in range(2)] if made.slow_target else []
        loss = made(a, b, *slow).loss
        target = slow[1] if slow else made.projector(b)
        wanted = cosine(made.predictor(made.projector(a)), target).sum()
        assert_close(loss, wanted)
        loss.backward()
        assert a.grad.abs().sum() > 0
        assert b.grad is None or not b.grad.any()
        assert all(z.grad is None for z in slow)


def test_every_objective_has_a_name_in_the_configuration():
    assert tuple(ssl.OBJECTIVES) == OBJECTIVES
    for kind in ssl.OBJECTIVES.values():
        assert kind.WEIGHT > 0


def test_a_siamese_without_predictor_would_be_seen_to_collapse():
    """The measures tell a representation that varies from one that does not."""
    projector, predictor = nn.Linear(6, 8), nn.Identity()
    made = Siamese(projector, predictor, simsiam.loss, slow_target=False)
    x = torch.randn(64, 6)
    std = feature_std(made(x, x).z_BE)
    with torch.no_grad():
        projector.weight.zero_()
    assert feature_std(made(x, x).z_BE) < 1e-6 < 0.5 < std


class TestIterativeNormalisation:
    def test_is_the_papers_algorithm(self):
        x = embeddings(5, 40, 6)[0].numpy()
        centred = x - x.mean(0)
        sigma = centred.T @ centred / 40 + 1e-5 * np.eye(6)
        p, share = np.eye(6), sigma / np.trace(sigma)
        for _ in range(5):
            p = (3 * p - np.linalg.matrix_power(p, 3) @ share) / 2
        wanted = centred @ p / np.sqrt(np.trace(sigma))
        assert_close(heads.iter_norm(torch.from_numpy(x)).numpy(), wanted, rtol=1e-12, atol=1e-12)

    def test_approaches_the_whitening_of_each_group(self):
        x = embeddings(6, 2000, 128)[0]
        x[:, 1::2] += 0.5 * x[:, ::2]
        grouped = (x - x.mean(0)).view(2000, 2, 64).transpose(0, 1)
        white = grouped @ heads.whitening(grouped, steps=15, eps=0.0)
        eye = torch.eye(64, dtype=torch.float64).expand(2, 64, 64)
        assert_close(white.mT @ white / 2000, eye, rtol=0, atol=1e-6)
        few = grouped @ heads.whitening(grouped)
        assert_close(heads.iter_norm(x), few.transpose(0, 1).reshape(2000, 128))

    def test_gradient(self):
        made = heads.IterNorm(E).double()
        inputs = [x.requires_grad_() for x in embeddings(8)]

        def loss(a: Tensor, b: Tensor, *_: Tensor) -> Tensor:
            return vibcreg.loss(made(a), made(b))

        assert torch.autograd.gradcheck(loss, (*inputs, *made.parameters()))

    def test_has_a_gain_and_a_shift(self):
        made, x = heads.IterNorm(6).double(), embeddings(5, 40, 6)[0]
        assert_close(made(x), heads.iter_norm(x))
        with torch.no_grad():
            made.gain_E.fill_(3.0)
            made.shift_E.fill_(-1.0)
        assert_close(made(x), 3 * heads.iter_norm(x) - 1)


class TestCollapse:
    def test_of_features_that_are_all_alike(self):
        x = torch.randn(1, 9).expand(20, 9)
        assert feature_std(x) < 1e-7
        assert effective_rank(x) == pytest.approx(1.0, abs=1e-6)

    def test_of_features_in_all_directions(self):
        x = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
        assert feature_std(x) == pytest.approx(1.0, abs=0.01)
        assert effective_rank(x) == pytest.approx(16, abs=0.05)

    @pytest.mark.parametrize("rank", [1, 3, 6])
    def test_the_rank_counts_directions(self, rank):
        basis = torch.linalg.qr(torch.randn(8, 8)).Q[:rank]
        x = torch.cat([basis, -basis])
        assert effective_rank(x + 7) == pytest.approx(rank, rel=1e-4)


class TestHeads:
    def test_pooled(self):
        low, high = torch.randn(3, 4, 2), torch.randn(3, 6, 5)
        x = heads.pooled([low, high])
        assert torch.equal(x, torch.cat([low.mean(1), high.mean(1)], 1))

    def test_unit(self):
        (z,) = heads.unit([100 * torch.randn(3, 4, 2, dtype=torch.bfloat16)])
        assert z.dtype == torch.float32
        assert_close(z.norm(dim=-1), torch.ones(3, 4))
        assert not heads.unit([torch.zeros(1, 1, 2)])[0].any()

    def test_mlp_keeps_no_averages(self):
        made = heads.mlp(3, 4, 5, norm_last=True)
        assert [type(layer).__name__ for layer in made] == [
            *("Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"),
        ]
        assert not list(made.buffers())
        twin = copy.deepcopy(made).eval()
        x = torch.randn(6, 3)
        assert torch.equal(twin(x), made(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "moco"}, "objective: wanted one of 'barlow_twins'"),
        ({"views": 3}, "views: wanted one of 1, 2"),
        ({"views": True}, "views: wanted"),
        ({"on": "tokens"}, "on: wanted one of 'latents', 'codes'"),
        ({"projector_width": 1}, "projector_width: wanted"),
        ({"projector_width": 100}, "projector_width: wanted a multiple of 64"),
        ({"weight": -1}, "weight: wanted"),
        ({"objective": "byol", "momentum": 1}, "momentum: wanted"),
        ({"objective": "simsiam", "momentum": 0.9}, "momentum: wanted None where objective is not"),
        ({"augmentations": ["jitter"]}, "augmentations: wanted a tuple"),
        ({"augmentations": ("noise",)}, "augmentations: wanted one of 'jitter'"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        SslConfig(**settings)
