"""Random numbers that are a function of where they are used: Philox4x32-10.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". Ten rounds mix a 128-bit counter
with a 64-bit key; the counter says which sample, position, stream, step and band a draw is for:

    (lo32(sample), hi32(sample), n | stream << 24, step | band << 16)

so a draw is the same whatever else is drawn with it. csrc/philox.h holds the same in C++.
B samples, N positions.
"""

from typing import Any, cast

import torch
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_type, bad_value

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
LOW = 0xFFFFFFFF
LIMITS = {
    "key": 1 << 64,
    "n_positions": (1 << 24) + 1,
    "stream": 1 << 8,
    "step": 1 << 16,
    "band": 1 << 16,
}


def philox(
    key: int,
    sample_B: Tensor,
    n_positions: int,
    *,
    stream: int = 0,
    step: int = 0,
    band: int = 0,
    backend: str | None = None,
) -> Tensor:
    """Random words of positions 0 ... N - 1 of each sample.

    key:                 the seed, in [0, 2**64)
    sample_B:            (B,) int64, absolute sample indices
    n_positions:         N, at most 2**24
    stream, step, band:  what the words are for; below 2**8, 2**16 and 2**16
    returns:             (B, N, 4) int64, 32 bits each
    raises:              ArgumentError or ArgumentTypeError for anything else
    """
    check(sample_B, key=key, n_positions=n_positions, stream=stream, step=step, band=band)
    signed = key - (key >> 63 << 64)  # the same 64 bits: PyTorch's integers have a sign
    args = (sample_B, signed, n_positions, stream, step, band)
    return cast(Tensor, dispatch.call("philox", baseline, *args, backend=backend, like=sample_B))


def _fake(sample_B: Tensor, key: int, n_positions: int, *args: Any, **kwargs: Any) -> Tensor:
    return sample_B.new_empty(sample_B.shape[0], n_positions, 4)


dispatch.register(
    "philox(Tensor sample, int key, int n_positions, int stream, int step, int band, *,"
    " str? backend=None) -> Tensor",
    fake=_fake,
)


def check(sample_B: Tensor, **numbers: int) -> None:
    """Refuse what would be cut off on its way into the counter, or read as other memory."""
    if not isinstance(sample_B, Tensor):
        raise bad_type("sample", "a tensor", sample_B)
    if sample_B.dtype != torch.int64 or sample_B.ndim != 1:
        got = f"{sample_B.dtype} {tuple(sample_B.shape)}"
        raise bad_value("sample", "int64 indices in one dimension", got)
    check_numbers(**numbers)


def check_numbers(**numbers: int) -> None:
    """Each within its part of the counter."""
    for name, number in numbers.items():
        if not isinstance(number, int):
            raise bad_type(name, "an int", number)
        if not 0 <= number < LIMITS[name]:
            raise bad_value(name, f"an integer from 0 to {LIMITS[name] - 1}", number)


def reference(
    sample_B: Tensor, key: int, n_positions: int, stream: int, step: int, band: int
) -> Tensor:
    """The definition, for tests: one counter at a time in Python's own integers."""
    words = [
        philox4x32(sample & LOW, sample >> 32 & LOW, n | stream << 24, step | band << 16, key)
        for sample in sample_B.tolist()
        for n in range(n_positions)
    ]
    return torch.tensor(words, dtype=torch.int64).view(len(sample_B), n_positions, 4)


def baseline(
    sample_B: Tensor, key: int, n_positions: int, stream: int, step: int, band: int
) -> Tensor:
    """The same on int64 tensors."""
    n_N = torch.arange(n_positions, device=sample_B.device)
    c2_1N = (n_N | stream << 24)[None]
    c3_1N = torch.full_like(c2_1N, step | band << 16)
    words = philox4x32((sample_B & LOW)[:, None], high(sample_B)[:, None], c2_1N, c3_1N, key)
    return torch.stack(torch.broadcast_tensors(*words), dim=-1)


def philox4x32(c0: Any, c1: Any, c2: Any, c3: Any, key: Any) -> tuple[Any, Any, Any, Any]:
    """The four output words of four counter words; ints, or int64 tensors that broadcast."""
    key0, key1 = key & LOW, key >> 32 & LOW
    for _ in range(ROUNDS):
        (high0, low0), (high1, low1) = product(c0, MULTIPLIERS[0]), product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + KEY_STEPS[0]) & LOW, (key1 + KEY_STEPS[1]) & LOW
    return c0, c1, c2, c3


def product(word: Any, multiplier: int) -> tuple[Any, Any]:
    """Upper and lower 32 bits of a product of 32-bit numbers.

    In two parts below 2^48: where int64 overflows, C++ that torch.compile writes is undefined.
    """
    upper, lower = word * (multiplier >> 16), word * (multiplier & 0xFFFF)
    return upper + (lower >> 16) >> 16, (upper << 16) + lower & LOW


def high(index: Any) -> Any:
    """The upper 32 bits; the shift is arithmetic, so the copies of the sign bit are cut off."""
    return index >> 32 & LOW


def uniforms(words_BN4: Tensor) -> tuple[Tensor, Tensor]:
    """Two uniform numbers per position, float64 (B, N), each in the open interval (0, 1).

    u = ((w0 << 20 | w1 >> 12) + 1/2) 2^-52, and v likewise of w2 and w3. 52 bits, because with 53
    the largest, 2^53 - 1/2, is no float64 and rounds to 1 after scaling; with 52 all are exact.

    words_BN4:  (B, N, 4) int64, what `philox` returns
    """
    if words_BN4.dtype != torch.int64 or words_BN4.ndim == 0 or words_BN4.shape[-1] != 4:
        wanted = "int64 words, 4 in the last dimension"
        raise bad_value("words", wanted, f"{words_BN4.dtype} {tuple(words_BN4.shape)}")
    w0, w1, w2, w3 = words_BN4.unbind(-1)
    return uniform(w0, w1), uniform(w2, w3)


def normals(words_BN4: Tensor) -> Tensor:
    """Two standard normal numbers per position, float64 (B, 2 N), those of a position together.

    √(-2 ln u) cos(2πv) and √(-2 ln u) sin(2πv): Box & Muller 1958, Annals of Mathematical
    Statistics 29. With u of 52 bits none is beyond 8.6.

    words_BN4:  (B, N, 4) int64, what `philox` returns
    """
    u_BN, v_BN = uniforms(words_BN4)
    length_BN, angle_BN = (-2 * u_BN.log()).sqrt(), 2 * torch.pi * v_BN
    pair = length_BN * angle_BN.cos(), length_BN * angle_BN.sin()
    return torch.stack(pair, dim=-1).flatten(1)


def uniform(high_word: Tensor, low_word: Tensor) -> Tensor:
    """52 of their bits as a number."""
    return ((high_word << 20 | low_word >> 12).double() + 0.5) * 2.0**-52


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [(0, 3, 1), (1, 1, 0), (3, 2, 5), (17, 5, 2**63 + 12345), (5, 65, 2**64 - 1)]
BENCH_SHAPES = [(256, 8, 0), (256, 64, 0), (10_000, 64, 0)]  # (B, N, key)
GPU_SHAPES = [(100_000, 64, 0), (256, 64, 0)]
TOLERANCE = {torch.int64: 0.0}  # bits are right or wrong
DIFFERENTIABLE = ()

Shape = tuple[int, int, int]


def make_inputs(
    shape: Shape, device: str, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, int, int, int, int, int]:
    B, N, key = shape
    rng = torch.Generator().manual_seed(seed)
    sample_B = torch.randint(0, 2**62, (B,), generator=rng).to(device)
    return sample_B, key - (key >> 63 << 64), N, 3, 9, 1


def error(out: Tensor, ref: Tensor, *inputs: object) -> float:
    """Words that differ."""
    return float((out != ref).sum()) if out.shape == ref.shape else torch.inf


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read the indices once, write the words once."""
    B, N, _ = shape
    return B * 8 * (1 + 4 * N)
