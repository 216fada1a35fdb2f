"""Two processes that train together hold the same codebook, to the bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from test_quantisers import of_dims

N_STEPS = 50
LEARNED = {"n_codes": (32, 32), "restart_below": 0.3}
KINDS = {
    "euclidean": LEARNED,
    "cosine": LEARNED | {"codebook": "cosine"},
    "residual": LEARNED | {"codebook": "residual"},
    "orthogonal": LEARNED | {"orthogonal": 1.0},
    "fsq": {"codebook": "fsq", "levels": (5, 4, 3), "n_codes": (60, 60)},
}


def train(rank: int, file: str) -> None:
    """One of two ranks: its own data, its own generator, its own first codes."""
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    for kind, sizes in KINDS.items():
        book = of_dims(3, **sizes).float()
        for step in range(N_STEPS):
            out = book(torch.randn(4, 5 + 3 * rank, 3) * (1 + rank) + 0.1 * step)
            if isinstance(book.codes_KD, torch.nn.Parameter):
                follow(book.codes_KD, out.loss)
        torch.save(book.state_dict(), f"{file}.{kind}.{rank}")
    dist.destroy_process_group()


def follow(codes_KD: torch.nn.Parameter, loss: torch.Tensor) -> None:
    """A step down the gradient of both ranks."""
    (grad,) = torch.autograd.grad(loss, codes_KD)
    dist.all_reduce(grad)
    codes_KD.data -= 0.1 * grad


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_two_ranks_hold_the_same_codes_after_50_steps(tmp_path):
    file = tmp_path / "meeting"
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(file)],
            cwd=Path(__file__).parent,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in ranks:
            _, errors = process.communicate(timeout=100)
            assert process.returncode == 0, errors
    finally:
        for process in ranks:
            process.kill()
    for kind in KINDS:
        one, other = (torch.load(f"{file}.{kind}.{r}", weights_only=True) for r in range(2))
        for key, tensor in one.items():
            assert torch.equal(tensor, other[key]), (kind, key)
        assert one["codes_KD"].isfinite().all()
        assert one["started"]
        if kind == "fsq":  # the first batch of one rank scaled the projection of both
            assert not torch.equal(one["project_in.weight"], torch.eye(3))
        else:
            assert one["counts_K"].sum() > 20  # of both ranks' vectors: 20 and 32 a step


if __name__ == "__main__":
    train(int(sys.argv[1]), sys.argv[2])
