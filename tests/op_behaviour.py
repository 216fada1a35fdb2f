"""What the tests of the ops' behaviour share."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_same(outs: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """To the bit."""
    for out, other in zip(outs, others, strict=True):
        assert torch.equal(out, other)
