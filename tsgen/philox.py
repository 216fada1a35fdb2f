"""Random numbers that are a function of where they are used, Philox4x32-10.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". Ten rounds mix a 128-bit counter
with a 64-bit key; the counter says which sample, position, stream, step and band a draw is for:

    (lo32(sample), hi32(sample), n | stream << 24, step | band << 16)

so a draw is the same whatever else is drawn with it. csrc/philox.h holds the same in C++.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from tsgen import native
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
    key: int, sample_B: Tensor, n_positions: int, *, stream: int = 0, step: int = 0, band: int = 0
) -> Tensor:
    """Random words of positions 0 ... N - 1 of each sample: int64 (B, N, 4), 32 bits each.

    key: the seed, in [0, 2**64).
    sample_B: absolute sample indices, int64, on any device.
    n_positions: N, at most 2**24.
    stream, step, band: what the words are for; below 2**8, 2**16 and 2**16.

    Raises ArgumentError or ArgumentTypeError for anything else.
    """
    check(sample_B, key=key, n_positions=n_positions, stream=stream, step=step, band=band)
    run = native_philox() if sample_B.device.type == "cpu" else None
    if run is None:
        return philox_words(key, sample_B, n_positions, stream=stream, step=step, band=band)
    return run(key, sample_B.contiguous(), n_positions, stream=stream, step=step, band=band)


def philox_words(
    key: int, sample_B: Tensor, n_positions: int, *, stream: int = 0, step: int = 0, band: int = 0
) -> Tensor:
    """The same words as `philox`, in plain PyTorch; takes the same arguments, checked there."""
    n_N = torch.arange(n_positions, device=sample_B.device)
    c2_1N = (n_N | stream << 24)[None]
    c3_1N = torch.full_like(c2_1N, step | band << 16)
    words = philox4x32((sample_B & LOW)[:, None], high(sample_B)[:, None], c2_1N, c3_1N, key)
    return torch.stack(words, dim=-1)


def philox4x32(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, key: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four output words of four counter words, int64 tensors that broadcast together."""
    key0, key1 = key & LOW, key >> 32
    for _ in range(ROUNDS):
        # wraps modulo 2^64: the sign is lost, the bits are right
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = high(product1) ^ c1 ^ key0, product1 & LOW
        c2, c3 = high(product0) ^ c3 ^ key1, product0 & LOW
        key0, key1 = (key0 + KEY_STEPS[0]) & LOW, (key1 + KEY_STEPS[1]) & LOW
    return c0, c1, c2, c3


def uniforms(words_BN4: Tensor) -> tuple[Tensor, Tensor]:
    """Two uniform numbers per position, float64 (B, N), each in the open interval (0, 1).

    u = ((w0 << 20 | w1 >> 12) + 1/2) 2^-52, and v likewise of w2 and w3. 52 bits, because with 53
    the largest, 2^53 - 1/2, is no float64 and rounds to 1 after scaling; with 52 all are exact.

    words_BN4: int64 (B, N, 4), what `philox` returns.
    """
    if words_BN4.dtype != torch.int64 or words_BN4.ndim == 0 or words_BN4.shape[-1] != 4:
        wanted = "int64 words, 4 in the last dimension"
        raise bad_value("words_BN4", wanted, f"{words_BN4.dtype} {tuple(words_BN4.shape)}")
    w0, w1, w2, w3 = words_BN4.unbind(-1)
    return uniform(w0, w1), uniform(w2, w3)


def uniform(high_word: Tensor, low_word: Tensor) -> Tensor:
    return ((high_word << 20 | low_word >> 12).double() + 0.5) * 2.0**-52


def high(product: Tensor) -> Tensor:
    """The upper 32 bits; the shift is arithmetic, so the copies of the sign bit are cut off."""
    return product >> 32 & LOW


@functools.cache
def native_philox() -> Callable[..., Tensor] | None:
    try:
        return native.load("philox", "cpu")
    except ImportError:
        return None


def check(sample_B: Tensor, **numbers: int) -> None:
    """Refuse what would be cut off on its way into the counter, or read as other memory."""
    if not isinstance(sample_B, Tensor):
        raise bad_type("sample_B", "a tensor", sample_B)
    if sample_B.dtype != torch.int64 or sample_B.ndim != 1:
        got = f"{sample_B.dtype} {tuple(sample_B.shape)}"
        raise bad_value("sample_B", "int64 indices in one dimension", got)
    for name, number in numbers.items():
        if not isinstance(number, int):
            raise bad_type(name, "an int", number)
        if not 0 <= number < LIMITS[name]:
            raise bad_value(name, f"an integer from 0 to {LIMITS[name] - 1}", number)
