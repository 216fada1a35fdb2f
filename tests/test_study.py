"""benchmarks/study.py and study_plan.py: what is run, by workers that die."""

import dataclasses
import inspect
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_study_ledger import CELLS, TINY, row
from ucr import folder

import tsgen
from tsgen import fitting, formats, metrics
from tsgen.config import PRESETS, Preset, SslConfig
from tsgen.data import Scaler
from tsgen.fitting import model_config, tokenizer_config, train_config

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import study
import study_compare
import study_plan
import study_report
from study_plan import SEEDS, SETS, VARIANTS, Budget, Cell, Ledger, cells, finished

CHANGED = {  # fields of the model's configuration, of every variant but the other preset
    **{name: set() for name, variant in VARIANTS.items() if "ssl" in variant.fit},
    "orthogonal codes": {"orthogonal"},
    "cosine codes": {"codebook"},
    "FSQ": {"codebook", "levels", "code_dim", "n_codes"},
    "residual codes": {"codebook"},
    "rotation gradient": {"gradient"},
    "flat alignment": {"band_alignment"},
    "mask keeps": {"mask_polarity"},
    "residual blocks": {"n_resblocks"},
    "one band": {"bands", "token_width", "n_codes", "priors", "sampling"},
    "VAE": {"vae", "priors"},
}


def configured(name):
    """The fields of a variant's model and tokenizer."""
    preset, sizes = study_plan.preset(VARIANTS[name]), study_plan.sizes(VARIANTS[name])
    x = np.zeros((300, 1, 128), np.float32)
    config = model_config(x, None, preset, sizes, sizes.pop("family", "vq")).to_dict()
    return config | config.pop("tokenizer")


class TestPlan:
    def test_one_factor_at_a_time(self):
        assert VARIANTS["base"] == study_plan.Variant()
        changes = [v.fit | v.preset for name, v in VARIANTS.items() if name != "base"]
        assert all(len(change) == 1 for change in changes)
        assert len({repr(change) for change in changes}) == len(changes)

    def test_every_run_once(self):
        every = cells()
        assert len(set(every)) == len(every) == len(SETS) * len(VARIANTS) * len(SEEDS)
        assert len(SETS) >= 6
        assert len(SEEDS) >= 3
        assert {cell.seed for cell in every[: len(every) // len(SEEDS)]} == {SEEDS[0]}

    @pytest.mark.parametrize("name", [name for name in VARIANTS if name != "base"])
    def test_settings_exist_and_differ_from_base(self, name):
        variant, known = VARIANTS[name], inspect.signature(tsgen.fit).parameters
        for key, value in variant.preset.items():
            assert key in {field.name for field in dataclasses.fields(Preset)}
            assert value != getattr(study_plan.STUDIED, key)
        for key, value in variant.fit.items():
            assert value != known[key].default

    @pytest.mark.parametrize(("name", "fields"), CHANGED.items())
    def test_one_factor_changes_and_nothing_else(self, name, fields):
        base, changed = configured("base"), configured(name)
        assert {field for field in base if base[field] != changed[field]} == fields

    @pytest.mark.parametrize("name", [name for name in VARIANTS if name != "base"])
    def test_training_is_the_same_but_for_self_supervision(self, name):
        base, changed = (
            train_config(study_plan.training(Cell("CBF", variant, 0), Budget()))
            for variant in ("base", name)
        )
        ssl = VARIANTS[name].fit.get("ssl")
        assert changed == dataclasses.replace(base, ssl=SslConfig(**ssl) if ssl else None)
        assert (changed != base) == (ssl is not None)

    def test_perplexity_is_compared_where_there_are_as_many_codes(self):
        def codes(name):
            config = configured(name)
            depth = config["n_quantisers"] if config["codebook"] == "residual" else 1
            return None if config["vae"] else (config["n_codes"], depth)

        other = {name for name in VARIANTS if codes(name) != codes("base")}
        assert set(study_compare.OTHER_CODES) == other

    @pytest.mark.parametrize("name", SETS)
    def test_sets_are_there(self, name):
        assert any(folder(name).iterdir())

    def test_settings_tell_runs_apart(self):
        every = [(cell.variant, budget) for cell in CELLS for budget in (Budget(), TINY)]
        texts = {json.dumps(study_plan.settings(Cell("CBF", v, 0), b)) for v, b in every}
        assert len(texts) == len(every)

    def test_rows_from_before_its_preset_changed_do_not_count(self, monkeypatch):
        before = {name: row(Cell("CBF", name, 0)) for name in ("base", "timevqvae")}
        for name in before:
            changed = dataclasses.replace(PRESETS[name], tokenizer={"hidden_dim": 64})
            monkeypatch.setitem(PRESETS, name, changed)
        # base is studied as it was
        assert [cell.variant for cell in finished(list(before.values()), Budget())] == ["base"]
        monkeypatch.setattr(study_plan, "STUDIED", changed)
        assert finished([before["base"]], Budget()) == {}

    def test_fields_that_came_later_do_not_matter(self):
        now = study_plan.settings(CELLS[0], Budget())
        then = json.loads(json.dumps(now))
        del then["model"]["tokenizer"]["gradient"], then["training"]["clip"]
        assert study_plan.agree(then, now)
        assert not study_plan.agree(now, then)  # nor does a field that is gone
        then["model"]["priors"] = then["model"]["priors"][:1]
        assert not study_plan.agree(then, now)
        changed = now | {"variant": {"fit": {"codebook": "cosine"}, "preset": {}}}
        assert not study_plan.agree(now, changed)

    def test_every_row_there_is_counts(self):
        assert study_report.load(study_plan.RESULTS, Budget()).n_outdated == 0

    def test_nor_from_before_a_default_of_models_changed(self, monkeypatch):
        before = row(CELLS[0])
        assert before["settings"]["model"]["tokenizer"]["dropout"] == 0.3

        def changed(shape, preset, how):
            return dataclasses.replace(tokenizer_config(shape, preset, how), dropout=0.2)

        monkeypatch.setattr(fitting, "tokenizer_config", changed)
        assert finished([before], Budget()) == {}

    def test_nor_from_before_a_default_of_training_changed(self, monkeypatch):
        before = row(CELLS[0])
        assert before["settings"]["training"]["clip"] == 1
        monkeypatch.setattr(study_plan, "train_config", lambda how: train_config(how | {"clip": 2}))
        assert finished([before], Budget()) == {}


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "study.jsonl") as ledger:
        yield ledger


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    """A set of two classes, under the name of a real one."""
    root = tmp_path_factory.mktemp("data")
    (root / "GunPoint").mkdir()
    rng, t = np.random.default_rng(0), np.arange(24)
    for part, n in (("TRAIN", 26), ("TEST", 30)):
        y = np.arange(n) % 2
        phase = rng.uniform(0, 6, (n, 1))
        x = np.sin(t * (0.3 + 0.5 * y[:, None]) + phase) + 0.1 * rng.standard_normal((n, 24))
        formats.write(root / "GunPoint" / f"GunPoint_{part}.ts", x.astype(np.float32)[:, None], y)
    return root


@pytest.fixture(scope="module")
def done(data_folder, tmp_path_factory):
    """Three runs by a worker."""
    wanted = cells(["GunPoint"], ["base", "mask keeps", "VAE"], [0])
    with Ledger(tmp_path_factory.mktemp("study") / "study.jsonl") as ledger:
        assert study.work(ledger, wanted, data_folder, TINY) == 0
        return ledger.rows()


class TestRuns:
    def test_a_row_says_all(self, done):
        assert [one["variant"] for one in done] == ["base", "mask keeps", "VAE"]
        for one in done:
            vae = one["variant"] == "VAE"
            assert one["settings"]["budget"]["steps"] == [2, 2]
            assert set(one["seconds"]) == ({"vae"} if vae else {"tokenizer", "prior_0", "prior_1"})
            assert {"cpu", "torch", "tsgen", "commit", "date"} <= set(one["machine"])
            assert (one["n_train"], one["n_test"], one["shape"]) == (20, 15, [1, 24])
            fids = ("fid", "fid_train", "fid_equal_n")
            assert all(one[key] > 0 for key in (*fids, "reconstruction", "trtr", "cpu_seconds"))
            assert 0 <= one["tstr"] <= 1
            assert "linear_latents" in one["probes"]
            assert ("perplexity_1" in one["probes"]) != vae
        assert [one["config"]["mask_polarity"] for one in done] == ["mask", "keep", "mask"]
        assert done[0]["fid"] != done[1]["fid"]
        assert done[0]["fid_train"] == done[1]["fid_train"]
        assert done[0]["reconstruction"] == done[1]["reconstruction"]  # stage 1 is the same

    def test_again_is_the_same(self, done, data_folder, ledger):
        assert study.work(ledger, [Cell("GunPoint", "base", 0)], data_folder, TINY) == 0
        told = {"seconds", "cpu_seconds", "total_seconds"}
        again = {k: v for k, v in ledger.rows()[0].items() if k not in told}
        assert again == {k: v for k, v in done[0].items() if k not in told}

    def test_scores_are_those_of_the_library(self, data_folder):
        data = study.read(data_folder / "GunPoint", TINY)
        model = tsgen.fit(data.x_train, data.y_train, steps=(1, 1), batch_size=8, progress=False)
        y = study.classes(data, 3, TINY)
        np.testing.assert_array_equal(
            y, np.resize(data.y_train[np.random.default_rng(3).permutation(20)], 24)
        )
        x = model.generate(24, label=y, seed=3)
        found = study.scores(x, y, data, dataclasses.replace(TINY, subsamples=1))
        parts = (data.x_train, data.y_train, data.x_test, data.y_test)
        expected = metrics.evaluate(x, y, *parts, n_kernels=10, seed=0)
        assert found["fid_equal_n"] == expected["fid"].value
        assert found["tstr"] == expected["tstr"].value
        assert found["trtr"] == expected["tstr"].floor
        # of all series, in the same features, standardised in the same way
        kept = np.sort(np.random.default_rng(0).permutation(24)[:20])
        subsample = study.scores(x[kept], y[kept], data, TINY)
        assert subsample["fid"] == pytest.approx(found["fid_equal_n"], rel=1e-9)
        assert found["fid"] != found["fid_equal_n"]
        assert found["fid_train"] == expected["fid"].floor

    def test_series_are_kept_where_one_asks_for_them(self, done, data_folder, ledger, tmp_path):
        cell = Cell("GunPoint", "mask keeps", 0)
        assert study.work(ledger, [cell], data_folder, TINY, tmp_path / "series") == 0
        (path,) = (tmp_path / "series").iterdir()
        assert path.name == "GunPoint-mask_keeps-0.npy"
        x = np.load(path)
        assert (x.dtype, x.shape) == (np.float16, (24, 1, 24))
        data = study.read(data_folder / "GunPoint", TINY)
        again = study.scores(x, study.classes(data, 0, TINY), data, TINY)
        assert again["fid"] == pytest.approx(ledger.rows()[0]["fid"], rel=0.02)
        for other in cells():
            study.keep(x[:1, :, :1], other, tmp_path / "all")
        assert len(list((tmp_path / "all").iterdir())) == len(cells())

    def test_enormous_series_are_a_result(self, data_folder, ledger, monkeypatch):
        """Finite in the model, not in the data's units: with a row they are not tried again."""
        train = study.trained

        def trained(*args):
            model, seconds = train(*args)
            model.scaler = Scaler((3.4e38,), (3e38,))
            return model, seconds

        monkeypatch.setattr(study, "trained", trained)
        cell = Cell("GunPoint", "base", 0)
        assert study.work(ledger, [cell], data_folder, TINY) == 0
        assert "generated series: x: wanted values" in ledger.rows()[0]["error"]
        assert not list(ledger.left([cell], TINY))

    @pytest.mark.parametrize("largest", [1e37, 3e38])
    def test_and_those_that_are_only_just_not_have_scores(self, data_folder, largest):
        data = study.read(data_folder / "GunPoint", TINY)
        x = np.random.default_rng(0).uniform(-largest, largest, (24, 1, 24)).astype(np.float32)
        found = study.scores(x, study.classes(data, 0, TINY), data, TINY)
        assert np.isfinite(list(found.values())).all()
        study.keep(x, Cell("GunPoint", "base", 0), data_folder / "series")

    def test_large_sets_are_drawn_from(self, data_folder):
        data, again = (study.read(data_folder / "GunPoint", TINY) for _ in range(2))
        assert (len(data.x_train), len(data.y_train), len(data.x_test)) == (20, 20, 15)
        np.testing.assert_array_equal(data.x_train, again.x_train)
        every = formats.read(data_folder / "GunPoint", split="train")
        place = [int(np.flatnonzero((x == every.X).all((1, 2)))[0]) for x in data.x_train]
        assert place == sorted(set(place))
        np.testing.assert_array_equal(np.asarray(every.y)[place], data.y_train)

    def test_failures(self, data_folder, ledger, monkeypatch, capsys):
        """A loss that diverges is a row; what is wrong with us is none, and stops nothing."""
        wanted = cells(["GunPoint"], seeds=[0])[:3]
        errors = iter([tsgen.errors.RunError("no finite loss"), KeyError("a mistake")])

        def trained(data, cell, budget):
            if cell == wanted[2]:
                raise tsgen.errors.RunError("again")
            raise next(errors)

        monkeypatch.setattr(study, "trained", trained)
        assert study.work(ledger, wanted, data_folder, TINY) == 1
        assert [one["error"] for one in ledger.rows()] == ["no finite loss", "again"]
        assert list(ledger.left(wanted, TINY)) == [wanted[1]]
        assert "FAILED" in capsys.readouterr().out

    def test_one_thread_each(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["study.py", "--results", str(tmp_path / "s.jsonl")])
        monkeypatch.setattr(study.torch, "get_num_threads", lambda: 2)
        with pytest.raises(SystemExit):
            study.main()
        assert "wanted OMP_NUM_THREADS=1" in capsys.readouterr().err

    def test_list(self, done, tmp_path, monkeypatch, capsys):
        one = done[0] | {"settings": study_plan.settings(Cell("GunPoint", "base", 0), Budget())}
        (tmp_path / "s.jsonl").write_text(json.dumps(one) + "\n")
        line = ["study.py", "--results", str(tmp_path / "s.jsonl"), "--list", "--seeds", "0", "1"]
        monkeypatch.setattr(sys, "argv", line)
        assert study.main() == 0
        told, count = capsys.readouterr().out.splitlines()
        assert told == study.told(done[0])
        n = 2 * len(SETS) * len(VARIANTS)
        hours = (n - 1) * one["total_seconds"] / 3600
        rest = f"the rest takes about {hours:.1f} worker hours"
        assert count == f"1 of {n} runs are done; {rest}"
