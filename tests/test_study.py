"""benchmarks/study*.py: what is run, by workers that die; what its numbers are said to mean."""

import dataclasses
import inspect
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ucr import folder

import tsgen
from tsgen import formats, metrics
from tsgen.config import PRESETS, Preset
from tsgen.fitting import model_config

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import report  # noqa: E402
import study  # noqa: E402
import study_plan  # noqa: E402
import study_report  # noqa: E402
import study_stats  # noqa: E402
from study_plan import SEEDS, SETS, VARIANTS, Budget, Cell, Ledger, cells, finished  # noqa: E402

TINY = Budget(
    steps=(2, 2), evaluations=1, most_train=20, most_test=15, n_generated=24, n_kernels=10
)


CELLS = cells()[:5]


CHANGED = {  # fields of the model's configuration, of every variant but the other preset
    **{name: set() for name, variant in VARIANTS.items() if "ssl" in variant.fit},
    "orthogonal codes": {"orthogonal"},
    "cosine codes": {"codebook"},
    "FSQ": {"codebook", "levels", "code_dim", "n_codes"},
    "residual codes": {"codebook"},
    "rotation gradient": {"gradient"},
    "flat alignment": {"band_alignment"},
    "mask keeps": {"mask_polarity"},
    "one band": {"bands", "token_width", "n_codes", "priors", "sampling"},
    "VAE": {"vae", "priors"},
}


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
            assert value != getattr(PRESETS["base"], key)
        for key, value in variant.fit.items():
            assert value != known[key].default

    @pytest.mark.parametrize(("name", "fields"), CHANGED.items())
    def test_one_factor_changes_and_nothing_else(self, name, fields):
        def plain(variant):
            how = dict(variant.fit)
            how.pop("ssl", None)
            family = how.pop("family", "vq")
            preset = dataclasses.replace(PRESETS["base"], **variant.preset)
            x = np.zeros((300, 1, 128), np.float32)
            config = model_config(x, None, preset, how, family).to_dict()
            return config | config.pop("tokenizer")

        base, changed = plain(VARIANTS["base"]), plain(VARIANTS[name])
        assert {field for field in base if base[field] != changed[field]} == fields

    @pytest.mark.parametrize("name", SETS)
    def test_sets_are_there(self, name):
        assert any(folder(name).iterdir())

    def test_settings_tell_runs_apart(self):
        every = [(cell.variant, budget) for cell in CELLS for budget in (Budget(), TINY)]
        texts = {json.dumps(study_plan.settings(Cell("CBF", v, 0), b)) for v, b in every}
        assert len(texts) == len(every)


def row(cell, budget=None, **values):
    plain = study_plan.settings(cell, budget or Budget())
    return {**cell._asdict(), "settings": plain, **values}


WORKER = """
import sys
sys.path.append({benchmarks!r})
from pathlib import Path
from study_plan import Budget, Ledger, cells, settings
ledger = Ledger(Path({path!r}))
for cell in ledger.left(cells()[:40], Budget()):
    ledger.append({{**cell._asdict(), "settings": settings(cell, Budget()), "pad": "x" * 5000}})
"""
HOLDER = """
import sys, time
sys.path.append({benchmarks!r})
from pathlib import Path
from study_plan import Budget, Ledger, cells
for cell in Ledger(Path({path!r})).left(cells()[:5], Budget()):
    print(*cell, sep="|", flush=True)
    time.sleep(60)
"""


def process(text, path, **how):
    code = text.format(benchmarks=str(BENCHMARKS), path=str(path))
    return subprocess.Popen([sys.executable, "-c", code], text=True, **how)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "study.jsonl") as ledger:
        yield ledger


class TestLedger:
    def test_rows_come_back(self, tmp_path):
        rows = [row(cell, fid=float(i)) for i, cell in enumerate(CELLS)]
        with Ledger(tmp_path / "a" / "study.jsonl") as ledger:
            for one in rows:
                ledger.append(one)
            assert ledger.rows() == rows
        with Ledger(tmp_path / "a" / "study.jsonl") as ledger:
            assert ledger.rows() == rows

    @pytest.mark.parametrize("half", ['{"set": "CB', '{"set": "CBF"}', "\xe9"])
    def test_half_a_row_is_none_and_goes(self, ledger, half):
        path = Path(ledger.file.name)
        ledger.append(row(CELLS[0]))
        with path.open("ab") as file:
            file.write(half.encode("latin-1"))
        assert ledger.rows() == [row(CELLS[0])]
        ledger.append(row(CELLS[1]))
        assert ledger.rows() == [row(CELLS[0]), row(CELLS[1])]
        assert path.read_text().count("\n") == 2

    def test_what_is_done_is_left_out(self, ledger):
        ledger.append(row(CELLS[1]))
        ledger.append(row(CELLS[2], TINY))  # with another budget: it does not count
        assert list(ledger.left(CELLS, Budget())) == [CELLS[0], *CELLS[2:]]

    def test_two_rows_of_a_run(self):
        with pytest.raises(ValueError, match="got two"):
            finished([row(CELLS[0]), row(CELLS[0])], Budget())

    def test_unknown_variants_do_not_count(self):
        gone = row(CELLS[0]) | {"variant": "one that was dropped"}
        assert finished([gone, row(CELLS[1])], Budget()) == {CELLS[1]: row(CELLS[1])}

    def test_workers_share_the_runs(self, ledger):
        workers = [process(WORKER, ledger.file.name) for _ in range(3)]
        assert [worker.wait(60) for worker in workers] == [0, 0, 0]
        assert set(finished(ledger.rows(), Budget())) == set(cells()[:40])

    def test_a_dead_worker_holds_nothing(self, ledger):
        worker = process(HOLDER, ledger.file.name, stdout=subprocess.PIPE)
        try:
            assert worker.stdout.readline().strip() == "|".join(map(str, CELLS[0]))
            assert list(ledger.left(CELLS, Budget())) == CELLS[1:]
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait(60)
            worker.stdout.close()
        assert list(ledger.left(CELLS, Budget())) == CELLS


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
            assert all(one[key] > 0 for key in ("fid", "fid_floor", "reconstruction", "trtr"))
            assert 0 <= one["tstr"] <= 1
            assert "linear_latents" in one["probes"]
            assert ("perplexity_1" in one["probes"]) != vae
        assert [one["config"]["mask_polarity"] for one in done] == ["mask", "keep", "mask"]
        assert done[0]["fid"] != done[1]["fid"]
        assert done[0]["fid_floor"] == done[1]["fid_floor"]
        assert done[0]["reconstruction"] == done[1]["reconstruction"]  # stage 1 is the same

    def test_again_is_the_same(self, done, data_folder, ledger):
        assert study.work(ledger, [Cell("GunPoint", "base", 0)], data_folder, TINY) == 0
        told = {"seconds", "cpu_seconds", "total_seconds"}
        again = {k: v for k, v in ledger.rows()[0].items() if k not in told}
        assert again == {k: v for k, v in done[0].items() if k not in told}

    def test_scores_are_those_of_the_library(self, data_folder):
        data = study.read(data_folder / "GunPoint", TINY)
        model = tsgen.fit(data.x_train, data.y_train, steps=(1, 1), batch_size=8, progress=False)
        found = study.scores(model, data, 3, dataclasses.replace(TINY, subsamples=1))
        y = np.resize(data.y_train[np.random.default_rng(3).permutation(20)], 24)
        x = model.generate(24, label=y, seed=3)
        parts = (data.x_train, data.y_train, data.x_test, data.y_test)
        expected = metrics.evaluate(x, y, *parts, n_kernels=10, seed=0)
        assert found["fid"] == expected["fid"].value
        assert found["fid_floor"] == expected["fid"].floor
        assert found["tstr"] == expected["tstr"].value
        assert found["trtr"] == expected["tstr"].floor

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


def written(path, effects, skip=()):
    """Results in which variants differ from base by these effects on log FID, and by noise."""
    rng, rows = np.random.default_rng(0), []
    machine = {"cpu": "x", "torch": "y", "date": "2026-01-01", "commit": "z"}
    facts = {"machine": machine, "n_train": 20, "n_test": 30, "shape": [1, 24]}
    for cell in cells():
        noise, effect = rng.normal(0, 0.1), effects.get(cell.variant, 0)
        scores = {"fid": float(np.exp(effect + noise)), "fid_floor": 0.2, "trtr": 0.9}
        scores |= {"tstr": 0.8 - (effect + noise) / 10, "reconstruction": 0.1}
        scores |= {"probes": {"linear_latents": {"value": 0.5}}, "seconds": {"tokenizer": 1.0}}
        rows.append(row(cell, **facts, **{"error": "no finite loss"} if cell in skip else scores))
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(study_stats, "RESAMPLES", 300)


@pytest.mark.usefixtures("few_resamples")
class TestReport:
    def test_nothing_yet(self, tmp_path):
        assert study_report.page(tmp_path / "none.jsonl") == study_report.NOTHING
        assert study_report.summary(tmp_path / "none.jsonl") == []

    def test_other_settings_are_nothing(self, done, tmp_path):
        path = tmp_path / "study.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in done))
        assert study_report.page(path) == study_report.NOTHING

    def test_says_what_is_decided_and_what_is_not(self, tmp_path):
        skip = [Cell("CBF", "BYOL", 1)]
        path = written(tmp_path / "s.jsonl", {"timevqvae": 1.0, "FSQ": -0.5, "VICReg": 0.01}, skip)
        lines = study_report.page(path)
        fid = next(line for line in lines if line.startswith("- FID: better"))
        assert fid.startswith("- FID: better than base: FSQ; worse than base: timevqvae; undecided")
        assert "VICReg" in fid.split("undecided")[1]
        tstr = next(line for line in lines if line.startswith("- TSTR: better"))
        assert tstr.startswith("- TSTR: better than base: FSQ; worse than base: timevqvae;")
        text = "\n".join(lines)
        assert f"- runs: {len(cells())} of {len(cells())}, 1 diverged" in text
        byol = [line for line in lines if line.startswith("| BYOL")]
        assert "| 11, 1 diverged |" in byol[1]
        assert "1 diverged" in byol[3]
        peer = next(line for line in lines if line.startswith("| mean FID rank among 16"))
        base, other, difference = (float(cell.split()[0]) for cell in peer.split("|")[2:5])
        assert base - other == pytest.approx(difference, abs=0.11)
        assert other == 16
        assert peer in study_report.summary(path)

    def test_a_variant_without_a_whole_set_is_a_comparison_too(self, tmp_path):
        skip = [cell for cell in cells() if cell.variant == "BYOL"]
        found = study_report.load(written(tmp_path / "s.jsonl", {"FSQ": -0.5}, skip), Budget())
        p = study_report.tested(found, study_report.GENERATION["FID"])
        assert "BYOL" not in p
        assert p["FSQ"] == pytest.approx((len(VARIANTS) - 1) * 2 / 2 ** len(SETS))

    def test_ratios_and_points(self, tmp_path):
        lines = study_report.page(written(tmp_path / "s.jsonl", {"timevqvae": 1.0}))
        _, peer, *_ = (line for line in lines if line.startswith("| timevqvae"))
        assert float(peer.split("|")[2].split()[0]) == pytest.approx(np.e, rel=0.1)
        assert float(peer.split("|")[4].split()[0]) == pytest.approx(-10, abs=1)

    def test_half_done(self, tmp_path):
        path = written(tmp_path / "s.jsonl", {})
        half = path.read_text().splitlines(keepends=True)[: len(SETS) * len(VARIANTS) + 100]
        path.write_text("".join([*half, '{"set": "CB']))
        text = "\n".join(study_report.page(path))
        assert f"- runs: {len(half)} of {len(cells())}" in text
        assert "nothing to compare yet" in text

    def test_is_in_its_page(self, tmp_path, monkeypatch):
        page = tmp_path / "study.md"
        page.write_text("a\n<!-- results -->\nold\n<!-- /results -->\nb\n")
        text = report.between_marks(page, ["new", ""])
        assert text == "a\n<!-- results -->\nnew\n<!-- /results -->\nb\n"
