"""Philox: the published vectors, native against PyTorch, and uniforms that stay inside (0, 1)."""

import sys
from types import SimpleNamespace

import pytest
import torch
from test_ops import device_for

from tsgen import dispatch, native
from tsgen.errors import ArgumentError, ArgumentTypeError
from tsgen.ops.philox import philox, philox4x32, uniforms

# Random123's kat_vectors for philox4x32, 10 rounds: counter, key, words
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip
KEYS = [0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 0x9E3779B97F4A7C15]
FIRST = {"stream": 0, "step": 0, "band": 0}
LAST = {"stream": 255, "step": 65535, "band": 65535}
SAMPLES = [0, 1, 7, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, -1, -(2**32), -(2**63)]


@pytest.fixture
def extension():
    """tsgen._C: skipped where it was never built, a failure where it is but does not load."""
    return pytest.importorskip("tsgen._C", reason="the native extension tsgen._C is not built")


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
class TestKnownAnswers:
    def test_native(self, extension, counter, key, expected):
        assert list(extension.cpu.philox4x32(*words(counter), *words(key))) == words(expected)

    def test_pytorch(self, counter, key, expected):
        k0, k1 = words(key)
        c0, c1, c2, c3 = (torch.tensor([word]) for word in words(counter))
        out = philox4x32(c0, c1, c2, c3, k0 | k1 << 32)
        assert [int(word) for word in out] == words(expected)


class TestWords:
    def test_counter_layout(self, extension):
        """Each number lands in its own bits, on both paths."""
        key, sample, n, stream, step, band = 0xFEDCBA9876543210, (5 << 32) + 9, 3, 255, 65535, 65534
        words_BN4 = philox(key, torch.tensor([sample]), n + 1, stream=stream, step=step, band=band)
        counter = 9, 5, n | stream << 24, step | band << 16
        known = extension.cpu.philox4x32(*counter, 0x76543210, 0xFEDCBA98)
        assert words_BN4[0, n].tolist() == list(known)

    @pytest.mark.parametrize("backend", ["cpu", "cuda"])
    @pytest.mark.parametrize("key", KEYS)
    def test_native_equals_pytorch(self, backend, key):
        device = device_for("philox", backend, torch.int64)
        rng = torch.Generator().manual_seed(key % 2**63)
        drawn_B = torch.randint(-(2**63), 2**63 - 1, (50,), generator=rng)
        sample_B = torch.cat([torch.tensor(SAMPLES), drawn_B])
        stream, step, band = (
            int(torch.randint(limit, (), generator=rng)) for limit in (256, 65536, 65536)
        )
        for at in (FIRST, {"stream": stream, "step": step, "band": band}, LAST):
            expected = philox(key, sample_B, 13, **at, backend="torch")
            found = philox(key, sample_B.to(device), 13, **at, backend=backend)
            assert torch.equal(found.cpu(), expected)
            assert 0 <= expected.min() <= expected.max() < 2**32

    def test_a_sample_does_not_depend_on_its_company(self):
        sample_B = torch.arange(2**32 - 5, 2**32 + 5)
        together_BN4 = philox(7, sample_B, 31, step=2)
        alone_BN4 = torch.cat([philox(7, sample_B[b : b + 1], 31, step=2) for b in range(10)])
        assert torch.equal(together_BN4, alone_BN4)
        assert torch.equal(philox(7, sample_B[::3], 31, step=2), together_BN4[::3])
        assert torch.equal(philox(7, sample_B, 11, step=2), together_BN4[:, :11])

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1)])
    def test_empty_and_single(self, shape):
        B, N = shape
        sample_B = torch.arange(B)
        assert philox(0, sample_B, N).shape == (B, N, 4)
        assert philox(0, sample_B, N, backend="torch").shape == (B, N, 4)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"key": -1}, ArgumentError, "key: wanted an integer from 0 to 18446744073709551615"),
            ({"key": 2**64}, ArgumentError, "got 18446744073709551616"),
            ({"key": 1.0}, ArgumentTypeError, "key: wanted an int, got float"),
            ({"n_positions": 2**24 + 1}, ArgumentError, "n_positions: .* to 16777216, got"),
            ({"stream": 256}, ArgumentError, "stream: .* from 0 to 255, got 256"),
            ({"step": 65536}, ArgumentError, "step: .* from 0 to 65535"),
            ({"band": -1}, ArgumentError, "band: .* from 0 to 65535, got -1"),
            ({"sample_B": [1, 2]}, ArgumentTypeError, "sample: wanted a tensor, got list"),
            ({"sample_B": torch.zeros(2)}, ArgumentError, r"int64 .* got torch.float32 \(2,\)"),
            ({"sample_B": torch.tensor(3)}, ArgumentError, r"one dimension, got torch.int64 \(\)"),
        ],
    )
    def test_says_what_was_wanted_and_what_came(self, change, error, message):
        arguments = {"key": 0, "sample_B": torch.arange(2), "n_positions": 3} | change
        with pytest.raises(error, match=message):
            philox(**arguments)


class TestUniforms:
    def test_edges_are_inside_the_open_interval(self):
        ends_BN4 = torch.tensor([[[0, 0, 0, 0], [2**32 - 1] * 4]])
        for u_BN in uniforms(ends_BN4):
            assert u_BN.tolist() == [[2.0**-53, 1 - 2.0**-53]]

    def test_uses_the_upper_52_bits_and_two_words_each(self):
        words_BN4 = torch.tensor([[[0x80000000, 0xFFF, 0, 0x1000]]])
        u_BN, v_BN = uniforms(words_BN4)
        assert u_BN.item() == 0.5 + 2.0**-53  # the last 12 bits are not used
        assert v_BN.item() == 1.5 * 2.0**-52
        assert u_BN.dtype == v_BN.dtype == torch.float64

    def test_look_uniform_and_independent(self):
        u_BN, v_BN = uniforms(philox(3, torch.arange(1000), 100))
        count = u_BN.numel()
        for draws_BN in (u_BN, v_BN):
            counts = torch.histc(draws_BN, bins=64, min=0, max=1)
            chi_square = ((counts - count / 64).square() / (count / 64)).sum()
            assert 30 < chi_square < 110  # 63 degrees of freedom: 63 ± 11
        correlation = ((u_BN - 0.5) * (v_BN - 0.5)).mean() * 12
        assert correlation.abs() < 5 / count**0.5

    def test_says_what_was_wanted_and_what_came(self):
        with pytest.raises(ArgumentError, match=r"int64 words, 4 .* got torch.int64 \(2, 3\)"):
            uniforms(torch.zeros(2, 3, dtype=torch.int64))


class TestWithoutTheExtension:
    """Where tsgen._C cannot be imported, PyTorch stands in and the reason can be asked for."""

    @pytest.fixture(autouse=True)
    def no_extension(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tsgen._C", None)
        for cached in (native.kernels, dispatch.load, dispatch._choose):
            cached.cache_clear()
        yield
        for cached in (native.kernels, dispatch.load, dispatch._choose):
            cached.cache_clear()

    def test_pytorch_stands_in(self):
        sample_B = torch.tensor(SAMPLES)
        why = dispatch.obstacle("philox", "cpu", "cpu", torch.int64)
        assert "not built" in why
        assert torch.equal(philox(5, sample_B, 9), philox(5, sample_B, 9, backend="torch"))
        with pytest.raises(ArgumentError, match=r"does not load: tsgen\._C is not built"):
            philox(5, sample_B, 9, backend="cpu")

    def test_load_says_why(self):
        with pytest.raises(ImportError, match=r"tsgen\._C is not built, or does not load here"):
            native.load("philox", "cpu")

    def test_load_names_what_an_old_build_lacks(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tsgen._C", SimpleNamespace(cpu=SimpleNamespace()))
        with pytest.raises(ImportError, match=r"has no cpu\.philox: it is older than tsgen"):
            native.load("philox", "cpu")
        with pytest.raises(ImportError, match="was built without cuda"):
            native.load("philox", "cuda")
