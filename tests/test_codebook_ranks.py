"""Two processes that train together hold the same codebook, to the bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_tokenizer import codebook

N_STEPS = 50
SPACES = ("euclidean", "cosine")


def train(rank: int, file: str) -> None:
    """One of two ranks: its own data, its own generator, its own first codes."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2
    )
    torch.manual_seed(rank)
    for space in SPACES:
        book = codebook(32, seed=rank, restart_below=0.3, codebook=space).train()
        for step in range(N_STEPS):
            book(torch.randn(4, 5 + 3 * rank, 3) * (1 + rank) + 0.1 * step)
        torch.save(dict(book.named_buffers()), f"{file}.{space}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
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
    for space in SPACES:
        one, other = (torch.load(f"{file}.{space}.{r}", weights_only=True) for r in range(2))
        for key, buffer in one.items():
            assert torch.equal(buffer, other[key]), key
        assert one["codes_KD"].isfinite().all()
        assert one["counts_K"].sum() > 20  # of both ranks' vectors: 20 and 32 a step


if __name__ == "__main__":
    train(int(sys.argv[1]), sys.argv[2])
