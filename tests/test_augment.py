"""Augmentations: what each does, and that a view depends on nothing but its series and the key."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tsgen import augment
from tsgen.augment import NAMED, Sometimes, augmented
from tsgen.augment.draws import Draws
from tsgen.augment.time import resampled
from tsgen.augment.values import spline_basis
from tsgen.config import AUGMENTATIONS
from tsgen.errors import ArgumentError, ArgumentTypeError

SHAPES = [(2, 1, 2), (5, 3, 3), (1, 2, 61), (16, 1, 128), (9, 2, 150)]
RAMP = torch.arange(64.0).expand(200, 2, 64)


def noise(shape=(40, 2, 64), seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draws(n: int = 40, key: int = 1) -> Draws:
    return Draws(key, torch.arange(n))


@pytest.mark.parametrize("name", AUGMENTATIONS)
class TestEach:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_keeps_the_shape_and_leaves_the_series_alone(self, name, shape):
        x = noise(shape)
        before = x.clone()
        y = augmented(x, [name], key=3)
        assert (y.shape, y.dtype) == (x.shape, torch.float32)
        assert y.isfinite().all()
        assert torch.equal(x, before)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_a_series_has_the_same_view_in_any_batch(self, name, shape):
        x = noise(shape)
        index = torch.arange(len(x)) * 10**10 + 7
        whole = augmented(x, [name], key=2**64 - 1, index_B=index)
        for some in ([0], list(range(len(x)))[::-2]):
            alone = augmented(x[some], [name], key=2**64 - 1, index_B=index[some])
            assert torch.equal(alone, whole[some])

    def test_views_keys_and_series_differ(self, name):
        x = noise()[:1].expand(64, 2, 64)
        y = augmented(x, [name], key=3)
        for other in (
            x,
            y.roll(1, 0),
            augmented(x, [name], key=4),
            augmented(x, [name], key=3, view=1),
        ):
            assert (y != other).any(dim=(1, 2)).float().mean() > (0.3 if name == "flip" else 0.8)

    def test_is_a_frozen_setting(self, name):
        made = NAMED[name]()
        assert made == NAMED[name]()
        setting = dataclasses.fields(made)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, setting, 1)
        with pytest.raises(ArgumentError, match=f"{setting}: wanted"):
            NAMED[name](**{setting: -1})

    def test_runs_under_autocast_in_float32(self, name):
        with torch.autocast("cpu", torch.bfloat16):
            y = augmented(noise(), [name], key=3)
        assert torch.equal(y, augmented(noise(), [name], key=3))


class TestValues:
    def test_jitter(self):
        y = augment.Jitter(0.5)(torch.zeros(40, 2, 64), draws())
        assert float(y.std()) == pytest.approx(0.5, rel=0.03)
        assert abs(float(y.mean())) < 0.02

    def test_scaling(self):
        x = noise()
        ratio = augment.Scaling(0.2)(x, draws()) / x
        assert_close(ratio, ratio[..., :1].expand_as(ratio))
        assert float(ratio[..., 0].std()) == pytest.approx(0.2, rel=0.25)
        assert not torch.allclose(ratio[:, 0], ratio[:, 1])

    def test_slope(self):
        added = augment.Slope(2.0)(noise(), draws()) - noise()
        assert_close(added.mean(2), torch.zeros(40, 2), rtol=0, atol=1e-6)
        assert_close(added.diff(n=2), torch.zeros(40, 2, 62), rtol=0, atol=1e-5)
        assert float((added[..., -1] - added[..., 0]).std()) == pytest.approx(2, rel=0.25)

    @pytest.mark.parametrize(("axis", "flipped"), [("value", -noise()), ("time", noise().flip(2))])
    def test_flip(self, axis, flipped):
        x, y = noise(), augment.Flip(axis)(noise(), draws())
        turned = (y == flipped).all(dim=(1, 2))
        assert torch.equal(y, torch.where(turned[:, None, None], flipped, x))
        assert 8 < turned.sum() < 32
        assert torch.equal(augment.Flip(axis, p=1.0)(x, draws()), flipped)

    def test_magnitude_warp_passes_through_its_knots(self):
        curve = augment.MagnitudeWarp(0.2, knots=3)(torch.ones(40, 2, 65), draws())
        wanted = 1 + 0.2 * draws().normal(2, 5)
        assert_close(curve[..., ::16], wanted)
        assert float(curve.diff(n=2).abs().max()) < 0.05

    @pytest.mark.parametrize(("knots", "length"), [(2, 2), (6, 3), (6, 200)])
    def test_a_spline_through_ones_is_one(self, knots, length):
        assert_close(spline_basis(knots, length).sum(0), torch.ones(length))


class TestTime:
    def test_resampled_is_linear_interpolation(self):
        x = noise((3, 2, 50))
        at = torch.rand(3, 50) * 49
        for y, values, places in zip(resampled(x, at), x, at, strict=True):
            for got, wanted in zip(y, values, strict=True):
                assert_close(got.numpy(), np.interp(places, range(50), wanted).astype(np.float32))
        assert torch.equal(resampled(x, torch.arange(50.0).expand(3, 50)), x)

    def test_crop_resize_stretches_a_window(self):
        y = augment.CropResize(0.25)(RAMP, draws(200))
        width = y[:, 0, -1] - y[:, 0, 0]
        assert 0.25 * 63 - 0.01 < width.min() < 24
        assert 56 < width.max() <= 63
        assert_close(y.diff(n=2), torch.zeros(200, 2, 62), rtol=0, atol=1e-4)
        assert torch.equal(y[:, 0], y[:, 1])
        assert y.min() >= 0
        assert y.max() <= 63

    def test_window_warp_is_slower_or_faster_in_a_window(self):
        y = augment.WindowWarp(window=0.5, low=0.5, high=2.0)(RAMP, draws(200))
        assert torch.equal(y[:, 0], y[:, 1])
        assert_close(y[..., 0], torch.zeros(200, 2))
        assert_close(y[..., -1], torch.full((200, 2), 63.0))
        step = y[:, 0].diff()
        assert step.min() > 0
        # inside, time passes 1 / stretch as fast as outside: both within one series
        ratio = step.max(1).values / step.min(1).values
        assert 1.8 < ratio.max() < 2.01

    def test_window_warp_that_stretches_by_1_changes_nothing(self):
        y = augment.WindowWarp(low=1.0, high=1.0)(noise(), draws())
        assert_close(y, noise(), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("slices", [2, 3, 7])
    def test_slice_shuffle_permutes_slices(self, slices):
        y = augment.SliceShuffle(slices)(RAMP, draws(200))
        assert torch.equal(y[:, 0], y[:, 1])
        assert torch.equal(y.sort(dim=2).values, RAMP)
        breaks = (y[:, 0].diff() != 1).sum(1)
        assert breaks.max() == slices - 1
        assert (breaks > 0).float().mean() > 0.4

    def test_time_mask(self):
        zero = augment.TimeMask(0.25)(torch.ones(200, 2, 64), draws(200)) == 0
        assert torch.equal(zero[:, 0], zero[:, 1])
        assert_spans(zero[:, 0], longest=16)


class TestSpectrum:
    x = noise((200, 2, 64))
    before = torch.fft.rfft(x)

    def after(self, made, x: Tensor | None = None) -> Tensor:
        return torch.fft.rfft(made(self.x if x is None else x, draws(200)))

    def test_frequency_mask(self):
        after = self.after(augment.FrequencyMask(0.25))
        missing = (after.abs() < 1e-4)[:, 0]
        assert not missing[:, 0].any()
        assert_spans(missing[:, 1:], longest=22)
        assert_close(
            torch.where(missing[:, None], self.before, after), self.before, rtol=0, atol=1e-4
        )

    def test_phase_shift_keeps_amplitudes(self):
        after = self.after(augment.PhaseShift(0.5))
        assert_close(after.abs(), self.before.abs(), rtol=0, atol=1e-4)
        for real in (0, 32):
            assert_close(after[..., real], self.before[..., real], rtol=0, atol=1e-4)
        turned = (after / self.before)[..., 1:32].angle()
        assert float(turned.std()) == pytest.approx(0.5, rel=0.05)

    def test_band_gain_keeps_phases(self):
        after = self.after(augment.BandGain(0.5, std=0.1))
        gain = after / self.before
        assert_close(gain.imag, torch.zeros_like(gain.imag), rtol=0, atol=1e-3)
        changed = (gain.real - 1).abs() > 2e-3
        assert not changed[..., 0].any()
        assert changed.sum(2).max() <= 30  # half of the octaves: the upper 29 of 32 bins
        assert (changed.sum((1, 2)) > 0).float().mean() > 0.8

    @pytest.mark.parametrize("length", [2, 3, 64, 61])
    def test_no_change_is_none(self, length):
        x = noise((3, 2, length))
        for made in (augment.FrequencyMask(0.0), augment.PhaseShift(0.0), augment.BandGain(0.0)):
            assert_close(made(x, draws(3)), x, rtol=1e-5, atol=1e-5)


def assert_spans(mask_BN: Tensor, longest: int) -> None:
    """Each row has one run of at most this many; some come near it, and all places are in some."""
    edges = torch.nn.functional.pad(mask_BN.int(), (1, 1)).diff().abs().sum(1)
    assert set(edges.tolist()) <= {0, 2}
    assert 0.8 * longest <= mask_BN.sum(1).max() <= longest
    assert mask_BN.any(0).all()


class TestCompositions:
    def test_are_applied_in_order(self):
        x = noise()
        first = augment.Jitter(0.1)
        both = augmented(x, [first, "slice_shuffle"], key=5)
        d = draws(key=5)
        assert torch.equal(both, augment.SliceShuffle()(first(x, d), d))
        assert torch.equal(augmented(x, [], key=5), x)

    def test_one_twice_draws_twice(self):
        x = torch.zeros(40, 1, 64)
        once, twice = (augmented(x, [augment.Jitter(1.0)] * n, key=5) for n in (1, 2))
        assert float((twice - once).std()) == pytest.approx(1, rel=0.05)

    def test_sometimes(self):
        x = noise((400, 1, 8))
        made = Sometimes("jitter", p=0.25)
        changed = (augmented(x, [made], key=1) != x).any(dim=(1, 2))
        assert 0.18 < changed.float().mean() < 0.32
        assert not torch.equal(augmented(x, [Sometimes(made, 0.9)], key=1), x)

    def test_refuses_what_it_does_not_know(self):
        with pytest.raises(ArgumentError, match="augmentations: wanted one of 'jitter'"):
            augmented(noise(), ["shake"], key=1)
        with pytest.raises(ArgumentError, match="augmentations: wanted one of 'jitter'"):
            Sometimes("shake")
        with pytest.raises(ArgumentError, match="augmentations: wanted one of 'jitter'"):
            augmented(noise(), [NAMED["jitter"]], key=1)
        for wrong, message in (
            ({"x_BCL": noise()[0]}, r"x: wanted \(series, channels"),
            ({"x_BCL": noise((3, 1, 1))}, r"x: wanted \(series, channels"),
            ({"index_B": torch.zeros(1, dtype=torch.int64)}, "index_B: wanted one of each of"),
        ):
            with pytest.raises(ArgumentError, match=message):
                augmented(**{"x_BCL": noise(), "augmentations": ["jitter"], "key": 1} | wrong)
        with pytest.raises(ArgumentTypeError, match="x: wanted a tensor"):
            augmented(np.zeros((2, 1, 8)), ["jitter"], key=1)

    def test_no_series_are_none_and_all_are_float32(self):
        assert augmented(noise()[:0], list(NAMED), key=1).shape == noise()[:0].shape
        assert augmented(noise().double(), ["jitter"], key=1).dtype == torch.float32
        always = augmented(noise(), [Sometimes("jitter", 1)], key=1)
        assert (always != noise()).any(dim=(1, 2)).all()

    def test_refuses_keys_and_indices_out_of_range(self):
        with pytest.raises(ArgumentError, match="key: wanted"):
            augmented(noise(), ["jitter"], key=-1)

    def test_every_name_is_in_the_configuration(self):
        assert tuple(NAMED) == AUGMENTATIONS


class TestDraws:
    def test_uniform(self):
        u = draws(2000).uniform(3, 5)
        assert u.shape == (2000, 3, 5)
        assert 0 <= u.min() < 1e-3
        assert 1 - 1e-3 < u.max() <= 1
        assert float(u.mean()) == pytest.approx(0.5, abs=0.01)
        assert float(u.var()) == pytest.approx(1 / 12, rel=0.02)

    def test_normal(self):
        z = draws(2000).normal(15).double()
        assert [float((z**k).mean()) for k in (1, 2, 3, 4)] == pytest.approx([0, 1, 0, 3], abs=0.1)
        flat = torch.corrcoef(z.T) - torch.eye(15)
        assert float(flat.abs().max()) < 0.1

    def test_calls_draw_anew(self):
        d = draws()
        assert not torch.equal(d.uniform(4), d.uniform(4))
        assert torch.equal(draws().uniform(4), draws().uniform(4))
