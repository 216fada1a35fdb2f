"""A Model as its users hold it: files, tokens, filling in, forecasting, labels."""

import numpy as np
import pytest
import torch
from tiny_models import smooth_series, tiny_model
from tqdm import tqdm

import tsgen
from tsgen import impute
from tsgen.data import Labels
from tsgen.storage import COUNTERS

LENGTH = 64
SIZES = {"length": LENGTH, "n_channels": 2, "tokenizer": {"token_width": (8, 16)}}


@pytest.fixture(scope="module")
def model():
    return tiny_model(**SIZES)


@pytest.fixture
def series():
    return smooth_series(5, 2, LENGTH)


class TestFiles:
    @pytest.mark.parametrize("sizes", [{}, {"bands": 1}, {"names": ()}, {"n_channels": 3}])
    def test_a_model_comes_back_the_same_to_the_bit(self, tmp_path, sizes):
        model = tiny_model(**sizes)
        model.save(tmp_path / "model")
        again = tsgen.load(tmp_path / "model")
        assert again.config == model.config
        assert again.scaler == model.scaler
        assert again.labels == model.labels
        weights = again.network.state_dict()
        assert set(weights) == set(model.network.state_dict())
        for name, tensor in model.network.state_dict().items():
            assert torch.equal(weights[name], tensor), name
            assert weights[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(again.generate(5, seed=3), model.generate(5, seed=3))
        assert not again.network.training

    def test_half_takes_half_and_is_nearly_the_same(self, tmp_path, model):
        model.save(tmp_path / "whole")
        model.save(tmp_path / "half", half=True)
        size = {p.name: (p / "model.safetensors").stat().st_size for p in tmp_path.iterdir()}
        state = {n: t for n, t in model.network.state_dict().items() if not n.endswith(COUNTERS)}
        n_floats = sum(t.numel() for t in state.values() if t.dtype == torch.float32)
        assert size["whole"] - size["half"] > 1.9 * n_floats
        again = tsgen.load(tmp_path / "half")
        for name, tensor in model.network.state_dict().items():
            assert again.network.state_dict()[name].dtype == tensor.dtype
            torch.testing.assert_close(
                again.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-3
            )

    def test_half_keeps_every_counter(self, tmp_path):
        model = tiny_model()
        book = model.network.tokenizer.each()[0].codebook
        book.counts_K[:] = 70_001.0
        book.sums_KD[:] = -300_007.0
        model.save(tmp_path / "half", half=True)
        again = tsgen.load(tmp_path / "half").network.tokenizer.each()[0].codebook
        assert torch.equal(again.counts_K, book.counts_K)
        assert torch.equal(again.sums_KD, book.sums_KD)
        with torch.no_grad():
            book.project_in.weight[0, 0] = 70_001.0
        with pytest.raises(tsgen.TsgenError, match="half: wanted weights within 65504, got larger"):
            model.save(tmp_path / "half", half=True)

    def test_saving_changes_nothing_and_replaces_what_was_there(self, tmp_path, model):
        before = model.generate(3)
        tiny_model().save(tmp_path / "model")
        model.save(tmp_path / "model")
        model.save(tmp_path / "model")
        np.testing.assert_array_equal(model.generate(3), before)
        np.testing.assert_array_equal(tsgen.load(tmp_path / "model").generate(3), before)

    def test_loading_leaves_the_global_generator_alone(self, tmp_path, model):
        model.save(tmp_path / "model")
        state = torch.get_rng_state()
        tsgen.load(tmp_path / "model")
        assert torch.equal(torch.get_rng_state(), state)

    def test_says_what_it_is(self, model):
        assert repr(model).startswith("<tsgen.Model 2 x 64, 3 classes, ")


class TestTokens:
    def test_decode_takes_what_encode_gives(self, model, series):
        ids, config = model.encode(series), model.config.tokenizer
        sizes = [config.n_tokens(band) for band in range(2)]
        assert ids.shape == (5, sum(sizes))
        assert ids.dtype == np.int64
        with torch.no_grad():
            scaled = torch.from_numpy(model.scaler.apply(series))
            wanted = model.scaler.undo(model.network.tokenizer(scaled).x_BCL.numpy())
        np.testing.assert_allclose(model.decode(ids), wanted, rtol=1e-5, atol=1e-5)
        for kind in (np.int32, np.uint8, np.uint64):
            np.testing.assert_array_equal(model.decode(ids.astype(kind)), model.decode(ids))
        np.testing.assert_array_equal(model.decode(torch.from_numpy(ids)), model.decode(ids))

    def test_more_than_one_chunk_and_none(self, model):
        x = smooth_series(150, 2, LENGTH)
        ids = model.encode(x)
        np.testing.assert_array_equal(model.encode(x[100:]), ids[100:])
        assert model.decode(ids).shape == x.shape
        assert model.decode(ids[:0]).shape == (0, 2, LENGTH)

    def test_layouts_and_units(self, model, series):
        ids = model.encode(series)
        turned = series.transpose(0, 2, 1)
        np.testing.assert_array_equal(model.encode(turned, layout="ntc"), ids)
        np.testing.assert_array_equal(model.encode(series.astype(np.float64)), ids)
        assert model.generate(20).mean(axis=(0, 2)) == pytest.approx([10, 20], abs=4)

    def test_of_a_model_at_the_edges_of_its_codebook(self, model):
        config = model.config.tokenizer
        low, high = (config.n_tokens(band) for band in range(2))
        last = [config.n_codes[0] - 1] * low + [config.n_codes[1] - 1] * high
        assert np.isfinite(model.decode([last, [0] * (low + high)])).all()


class TestGenerate:
    def test_gives_an_array_of_its_own(self, model):
        x = model.generate(4, seed=1)
        assert x.shape == (4, 2, LENGTH)
        assert x.dtype == np.float32
        x[:] = 0
        assert model.generate(4, seed=1).any()

    def test_nothing_where_nothing_is_asked_for(self, model):
        assert model.generate(0).shape == (0, 2, LENGTH)
        assert model.generate(indices=[]).shape == (0, 2, LENGTH)
        assert list(model.stream(0)) == []

    def test_labels_by_name_and_by_index(self, model):
        for i, name in enumerate(("bell", "cylinder", "funnel")):
            np.testing.assert_array_equal(
                model.generate(3, label=name, guidance=3), model.generate(3, label=i, guidance=3)
            )
        mixed = model.generate(3, label=["funnel", "bell", "bell"])
        np.testing.assert_array_equal(mixed[0], model.generate(1, label="funnel")[0])
        np.testing.assert_array_equal(mixed[2], model.generate(3, label="bell")[2])
        assert not np.array_equal(
            model.generate(3, label="bell"), model.generate(3, label="funnel")
        )
        assert not np.array_equal(model.generate(3), model.generate(3, label="bell"))

    def test_one_number_of_steps_serves_all_bands(self, model):
        np.testing.assert_array_equal(model.generate(3, steps=4), model.generate(3, steps=(4, 4)))
        assert not np.array_equal(model.generate(3, steps=4), model.generate(3, steps=[4, 1]))
        np.testing.assert_array_equal(
            model.generate(3, choice_temperature=0.5),
            model.generate(3, choice_temperature=[0.5, 0.5]),
        )

    def test_seeds_of_64_bits(self, model):
        drawn = [model.generate(2, seed=seed) for seed in (0, 1, 2**32, 2**63, 2**64 - 1)]
        assert len(np.unique(np.concatenate(drawn), axis=0)) == 10

    def test_progress_is_shown_when_asked_for(self, model, capsys):
        model.generate(3)
        assert capsys.readouterr().err == ""
        model.generate(3, progress=True)
        assert "3/3" in capsys.readouterr().err
        assert not tqdm._instances

    def test_stream_does_no_work_before_it_is_read(self, model):
        batches = model.stream(2**50)
        assert next(batches).shape == (64, 2, LENGTH)


class TestImpute:
    GAPS = (slice(20, 40), slice(0, 9), slice(50, 64), slice(31, 32), slice(0, 64))

    def holes(self, series):
        """A gap of another kind in each series, in one channel or both."""
        x = series.copy()
        for i, gap in enumerate(self.GAPS):
            x[i, i % 2 :, gap] = np.nan
        return x

    def test_known_values_come_back_to_the_bit(self, model, series):
        x = self.holes(series)
        given = x.copy()
        full = model.impute(x, seed=2)
        np.testing.assert_array_equal(x, given)  # the caller's array is not touched
        assert np.isfinite(full).all()
        known = ~np.isnan(x)
        assert (full[known].view(np.int32) == x[known].view(np.int32)).all()
        np.testing.assert_array_equal(model.impute(series), series)

    def test_draws_by_seed_and_by_series(self, model, series):
        x = self.holes(series)
        full = model.impute(x, seed=2)
        np.testing.assert_array_equal(model.impute(x, seed=2), full)
        assert not np.array_equal(model.impute(x, seed=3), full)
        np.testing.assert_array_equal(model.impute(x[:2], seed=2), full[:2])
        twice = model.impute(np.repeat(x[:1], 2, axis=0), seed=2)
        assert not np.array_equal(twice[0], twice[1])

    def test_shows_no_step_where_the_known_part_ends(self, model):
        x = smooth_series(64, 2, LENGTH)
        x[:, :, 20:44] = np.nan
        full = model.impute(x, seed=1)
        jumps = np.abs(np.diff(full, axis=2))
        # inside the gap a model without training is rough: its own jumps are the yardstick there
        inside = jumps[:, :, 20:43].max()
        known = np.nanmax(np.abs(np.diff(x, axis=2)))
        for border in (19, 43):
            assert jumps[:, :, border].max() <= max(inside, known) + 1e-4
        drawn = model.generate(64, seed=1)
        assert np.abs(drawn[:, :, 20] - x[:, :, 19]).max() > 3 * jumps[:, :, 19].max()

    def test_bridges_meet_both_ends_and_fade(self):
        x, drawn = np.zeros((1, 1, 12), np.float32), np.full((1, 1, 12), 8.0, np.float32)
        x[..., 3:10] = np.nan
        full = impute.stitched(x, drawn, fade=4)[0, 0]
        # off by -8 at both ends: a quarter less each step, and in the middle the drawn values
        np.testing.assert_allclose(full[3:10], [2, 4, 6, 8, 6, 4, 2])
        assert not full[[0, 1, 2, 10, 11]].any()

    def test_straight_lines_stand_in_for_what_is_missing(self):
        nan = np.nan
        x = np.array([[[nan, 1, nan, nan, 4, nan]], [[nan] * 6]], np.float32)
        np.testing.assert_allclose(impute.filled(x)[0, 0], [1, 1, 2, 3, 4, 4])
        assert not impute.filled(x)[1].any()

    def test_tokens_away_from_the_gap_are_kept(self, model):
        config = model.config.tokenizer
        missing = np.zeros((2, LENGTH), np.bool_)
        missing[0, 30:34] = True
        for band in range(2):
            known = impute.known_tokens(missing, config, band)
            assert known.shape == (2, config.n_tokens(band))
            assert known[1].all()
            grid = known[0].reshape(config.grid(band))
            assert grid[:, [0, -1]].all()
            assert not grid[:, grid.shape[1] // 2].any()

    def test_labels_steer_it(self, model, series):
        x = self.holes(series)
        labels = ["bell", "funnel", "cylinder", "bell", "funnel"]
        both = model.impute(x, label=labels, seed=1, guidance=4)
        np.testing.assert_array_equal(
            model.impute(x, label=[0, 2, 1, 0, 2], seed=1, guidance=4), both
        )
        assert not np.array_equal(model.impute(x, label="bell", seed=1, guidance=4), both)


class TestForecast:
    @pytest.mark.parametrize("n_past", [2, 10, 48, 64, 100])
    @pytest.mark.parametrize("horizon", [1, 16, 63])
    def test_is_n_futures_for_each_past(self, model, n_past, horizon):
        past = smooth_series(3, 2, 128)[:, :, :n_past]
        out = model.forecast(past, horizon, n=2, seed=1)
        assert out.shape == (3, 2, 2, horizon)
        assert np.isfinite(out).all()
        np.testing.assert_array_equal(model.forecast(past, horizon, n=2, seed=1), out)

    def test_futures_differ_by_seed_and_number(self, model, series):
        out = model.forecast(series, 16, n=4, seed=1)
        assert len(np.unique(out.reshape(20, -1), axis=0)) == 20
        assert not np.array_equal(model.forecast(series, 16, n=4, seed=2), out)

    def test_uses_the_last_part_of_the_past(self, model):
        past = smooth_series(2, 2, 100)
        recent = past[:, :, -(LENGTH - 16) :]
        np.testing.assert_array_equal(model.forecast(past, 16), model.forecast(recent, 16))

    @pytest.mark.parametrize("label", ["3", ["1", "3"], [2, 3], 2])
    def test_labels_mean_what_they_mean_in_impute(self, label):
        # names that look like indices of other classes
        model = tiny_model(names=("1", "2", "3"), **SIZES)
        past = smooth_series(2, 2, 48)
        window = np.full((2, 2, LENGTH), np.nan, np.float32)
        window[:, :, :48] = past
        wanted = model.impute(window, label=label, guidance=5)[:, :, 48:]
        np.testing.assert_array_equal(
            model.forecast(past, 16, label=label, guidance=5)[:, 0], wanted
        )

    def test_every_future_of_a_past_has_its_label(self):
        model = tiny_model(names=("1", "2", "3"), **SIZES)
        past = smooth_series(2, 2, 48)
        both = model.forecast(past, 16, n=3, label=["2", "3"], guidance=5)
        for i, label in enumerate(("2", "3")):
            alone = model.forecast(past, 16, n=3, label=label, guidance=5)
            np.testing.assert_array_equal(both[i], alone[i])


def test_labels_of_a_model_are_those_of_its_data():
    assert tiny_model(names=("1", "2", "3")).labels == Labels(("1", "2", "3"))
