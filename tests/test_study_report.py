"""benchmarks/study_report.py and study_compare.py: what the study's numbers are said to mean."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_study_ledger import TINY, row

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import report
import study_compare
import study_report
from study_plan import SEEDS, SEEN, SETS, VARIANTS, Budget, Cell, cells

from tsgen.config import PRESETS

A_SEED = len(SETS) * len(VARIANTS)  # runs
CODES = {"FSQ": [64, 64], "one band": [128], "timevqvae": [1024, 1024]}
LOOKED_AT, BY = ("latents", "codes", "tokens"), ("knn", "linear", "svm")
PROBED = [f"{how}_{of}" for of in LOOKED_AT for how in BY]
PROBED += ["perplexity_0", "perplexity_1", "usage_0", "usage_1"]


def made(cell, effect, noise, lost):
    """What a run is said to have scored."""
    codes = CODES.get(cell.variant, [32, 64])
    scores = {"fid": float(np.exp(effect + noise)), "fid_train": 0.2, "trtr": 0.9}
    scores |= {"fid_equal_n": 2.5}
    scores |= {"tstr": 0.8 - (lost + noise) / 10, "reconstruction": 0.1, "cpu_seconds": 7.0}
    # BYOL's nth probe is n points above base's, or, a perplexity, n times base's above it
    probes = {}
    for n, name in enumerate(PROBED, 1):
        n *= cell.variant == "BYOL"
        probes[name] = {"value": 9.0 * (1 + n) if "perplexity" in name else 0.5 + n / 100}
    scores |= {"probes": probes}
    return scores | {"config": {"vae": None, "tokenizer": {"n_codes": codes}}}


def written(path, effects, skip=(), wanted=None, lost=None):
    """Results in which variants differ from base by these effects on log FID, and by noise.

    effects:  by variant, or by variant and set
    lost:     tenths of TSTR; the same as the effects on log FID if None
    """
    rng, rows = np.random.default_rng(1), []
    machine = {"cpu": "x", "torch": "y", "date": "2026-01-01", "commit": "z"}
    facts = {"machine": machine, "n_train": 20, "n_test": 30, "shape": [1, 24]}
    for cell in wanted or cells():
        effect, less = (
            by.get((cell.variant, cell.set), by.get(cell.variant, 0))
            for by in (effects, effects if lost is None else lost)
        )
        scores = made(cell, effect, rng.normal(0, 0.1), less)
        rows.append(row(cell, **facts, **{"error": "no finite loss"} if cell in skip else scores))
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def under(lines, title):
    """The lines of a part of the page."""
    first = lines.index(title) + 1
    ends = [i for i in range(first, len(lines)) if lines[i].startswith("###")]
    return lines[first : min(ends, default=len(lines))]


def cells_of(lines, start):
    """What stands in the row of a table that starts so."""
    (line,) = (line for line in lines if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.split("|")[1:-1]]


class TestNothing:
    def test_without_a_file_or_rows(self, tmp_path):
        for path in (tmp_path / "none.jsonl", tmp_path / "empty.jsonl"):
            assert study_report.page(path) == study_report.NOTHING
            assert study_report.summary(path) == []
            (tmp_path / "empty.jsonl").touch()

    def test_of_other_settings(self, tmp_path):
        path = tmp_path / "study.jsonl"
        path.write_text(json.dumps(row(cells()[0], TINY)) + "\n")
        assert study_report.page(path) == [study_report.OUTDATED.format(1), ""]

    def test_seeds_of_different_models_are_refused(self, tmp_path):
        path = written(tmp_path / "s.jsonl", {})
        first, *rest = path.read_text().splitlines()
        other = json.loads(first)
        other["config"]["tokenizer"]["n_codes"] = [64, 64]
        path.write_text("\n".join([json.dumps(other), *rest, ""]))
        with pytest.raises(ValueError, match="the same config for all seeds of CBF, base"):
            study_report.page(path)


class TestComplete:
    def test_says_what_is_decided_and_what_is_not(self, tmp_path):
        skip = [Cell("CBF", "BYOL", 1), Cell("CBF", "BYOL", 2)]
        effects, lost = {"timevqvae": 1.0, "FSQ": -0.5, "VICReg": 0.01}, {"FSQ": 0.5, "VAE": -0.5}
        path = written(tmp_path / "s.jsonl", effects, skip, lost=lost)
        lines = study_report.page(path)
        for page in (lines, study_report.summary(path)):
            first = next(i for i, line in enumerate(page) if line.startswith("| score |"))
            assert page[first + 2 : first + 4] == [
                "| FID | FSQ | timevqvae | 15 of 17 |",
                "| TSTR | VAE | FSQ | 15 of 17 |",
            ]
        assert f"- runs: {len(cells())} of {len(cells())}, 2 diverged" in lines
        assert lines.count("Seeds 0, 1, 2 of 0, 1, 2.") == 7
        part = under(lines, "### Generated series")
        assert cells_of(part, "variant")[1:5:2] == [
            "FID, times base's",
            "TSTR, points above base's",
        ]
        assert cells_of(part, "BYOL")[5:7] == ["11", "2"]  # sets, runs
        assert "2 diverged" in cells_of(under(lines, "### TSTR, %, each set"), "BYOL")[1]
        same = cells_of(under(lines, "### FID at equal n, each set"), "BYOL")
        assert same[1:3] == ["2.5 2 diverged", "2.5 ± 0"]  # one run left, and three alike

    def test_base_beside_its_peer(self, tmp_path):
        skip = [Cell("CBF", "BYOL", 1)]
        path = written(tmp_path / "s.jsonl", {"timevqvae": 1.0}, skip)
        part = under(study_report.page(path), "### base beside timevqvae")
        n = len(VARIANTS)
        ratio = cells_of(part, "FID, times base's, all sets (12)")
        assert float(ratio[2].split()[0]) == pytest.approx(np.e, rel=0.1)
        peer = cells_of(part, f"mean FID rank among {n - 1}, all sets (12)")
        base, other, difference = (float(cell.split()[0]) for cell in peer[1:])
        assert base - other == pytest.approx(difference, abs=0.11)
        assert other == n - 1
        # CBF is not one of those where nothing had been looked at: BYOL is ranked again
        assert "CBF" in SEEN
        unseen = f"{study_report.SAID_OF_UNSEEN} (6)"
        new = cells_of(part, f"mean FID rank among {n}, {unseen}")
        assert new[2] == f"{n}.0 ({n}.0 to {n}.0)"
        tstr = cells_of(part, f"mean TSTR, %, {unseen}")
        assert float(tstr[3].split()[0]) == pytest.approx(10, abs=1)
        summary = study_report.summary(path)
        assert summary[0].startswith("**17 settings beside preset base**")
        assert summary[-len(part) :] == ["", *part[1:]]

    def test_beside_its_peer_on_some_of_the_sets(self, tmp_path):
        """Ahead by as much on half of them as behind on the others: each row is of its own sets."""
        effects = {("timevqvae", s): 1.0 if s in SEEN else -1.0 for s in SETS}
        path = written(tmp_path / "s.jsonl", effects)
        part = under(study_report.page(path), "### base beside timevqvae")
        for what, fid, tstr in (
            ("all sets (12)", 0, 0),
            (f"{study_report.SAID_OF_UNSEEN} (6)", -1, -10),
        ):
            ratio = cells_of(part, f"FID, times base's, {what}")[2]
            assert np.log(float(ratio.split()[0])) == pytest.approx(fid, abs=0.1)
            points = cells_of(part, f"mean TSTR, %, {what}")[3]
            assert float(points.split()[0]) == pytest.approx(tstr, abs=1)

    def test_on_how_many_sets_base_is_ahead(self, tmp_path):
        """Of the ratio of one to the other; ranks are said to be of something else."""
        effects = {("timevqvae", s): 1.0 if s in ("CBF", "Trace") else -1.0 for s in SETS}
        lost = {("timevqvae", s): -1.0 if s == "ACSF1" else 1.0 for s in SETS}
        path = written(tmp_path / "s.jsonl", effects, lost=lost)
        part = under(study_report.page(path), "### base beside timevqvae")
        p = study_compare.load(path, Budget())
        fid, tstr = (p.tested(study_compare.GENERATION[it])["timevqvae"] for it in ("FID", "TSTR"))
        assert part[-3:] == [
            f"Set by set base is ahead in FID on 2 of 12 sets, p = {fid:.3f}; "
            f"in TSTR on 11 of 12 sets, p = {tstr:.3f}.",
            study_report.RANKS_NOTE,
            "",
        ]
        assert fid != tstr

    def test_without_ranks_nothing_is_said_of_them(self, tmp_path):
        path = written(tmp_path / "s.jsonl", {}, [Cell("Crop", "timevqvae", 0)])
        part = under(study_report.page(path), "### base beside timevqvae")
        assert cells_of(part, "FID, times base's, all sets (11)")
        assert not [line for line in part if line.startswith("| mean FID rank")]
        assert study_report.RANKS_NOTE not in part
        assert "of 11 sets" in part[-2]

    def test_whether_base_is_still_that_of_the_study(self, tmp_path, monkeypatch):
        path = written(tmp_path / "s.jsonl", {})
        assert "- preset base now: as it was studied" in study_report.page(path)
        changed = dataclasses.replace(PRESETS["base"], mask_polarity="keep")
        monkeypatch.setitem(PRESETS, "base", changed)
        assert "- preset base now: changed since" in study_report.page(path)

    def test_ratios_and_points(self, tmp_path):
        lines = study_report.page(written(tmp_path / "s.jsonl", {"timevqvae": 1.0}))
        peer = cells_of(under(lines, "### Generated series"), "timevqvae")
        assert float(peer[1].split()[0]) == pytest.approx(np.e, rel=0.1)
        assert float(peer[3].split()[0]) == pytest.approx(-10, abs=1)

    def test_a_variant_without_a_whole_set_is_a_comparison_too(self, tmp_path):
        skip = [cell for cell in cells() if cell.variant == "BYOL"]
        path = written(tmp_path / "s.jsonl", {"FSQ": -0.5}, skip)
        runs = study_compare.load(path, Budget())
        p = runs.tested(study_compare.GENERATION["FID"])
        assert "BYOL" not in p
        assert p["FSQ"] == pytest.approx((len(VARIANTS) - 1) * 2 / 2 ** len(SETS))
        byol = cells_of(under(study_report.page(path), "### Generated series"), "BYOL")
        assert byol == ["BYOL", "", "", "", "", "0", str(len(SETS) * len(SEEDS)), "", ""]

    def test_few_sets_have_no_interval(self, tmp_path):
        skip = [Cell(s, "BYOL", 0) for s in list(SETS)[:7]]
        part = under(
            study_report.page(written(tmp_path / "s.jsonl", {}, skip)), "### Generated series"
        )
        assert "to" in cells_of(part, "VICReg")[1]
        assert "to" not in cells_of(part, "BYOL")[1]

    def test_every_probe_is_in_its_column(self, tmp_path):
        lines = study_report.page(written(tmp_path / "s.jsonl", {}))
        part = under(lines, "### What classifiers are told")
        assert cells_of(part, "variant")[1::3] == ["k-NN, latents", "k-NN, codes", "k-NN, tokens"]
        told = [f"+{n}.0 (+{n}.0 to +{n}.0)" for n in range(1, 10)]
        assert cells_of(part, "BYOL") == ["BYOL", *told]
        part = under(lines, "### Reconstruction, codes and costs")
        assert cells_of(part, "variant")[2:6] == [
            "perplexity, low",
            "perplexity, high",
            "codes used, low",
            "codes used, high",
        ]
        told = ["11.00 (11.00 to 11.00)", "12.00 (12.00 to 12.00)"]
        told += ["+12.0 (+12.0 to +12.0)", "+13.0 (+13.0 to +13.0)"]
        assert cells_of(part, "BYOL")[2:6] == told

    def test_unlike_numbers_are_left_out(self, tmp_path):
        lines = study_report.page(written(tmp_path / "s.jsonl", {}))
        part = under(lines, "### Reconstruction, codes and costs")
        assert "" not in cells_of(part, "BYOL")
        for variant in study_compare.OTHER_CODES:
            assert cells_of(part, variant)[2:6] == [""] * 4
            assert "" not in [*cells_of(part, variant)[:2], *cells_of(part, variant)[6:]]

    def test_numbers_of_codes_are_those_of_the_models(self, tmp_path):
        lines = study_report.page(written(tmp_path / "s.jsonl", {}))
        first = next(i for i, line in enumerate(lines) if line.startswith("| codes of the low"))
        rows = [line.split("|")[1:3] for line in lines[first + 2 : first + 6]]
        assert [[cell.strip() for cell in one] for one in rows] == [
            ["base", "32, 64"],
            ["FSQ", "64, 64"],
            ["one band", "128"],
            ["timevqvae", "1024, 1024"],
        ]
        assert lines[first + 6] == ""


def test_what_a_variant_changes():
    assert study_report.change("residual blocks") == "n_resblocks=2"
    assert study_report.change("one band") == "bands=1"
    assert study_report.change("BYOL") == "ssl=SslConfig(objective='byol')"


class TestPartly:
    @pytest.mark.parametrize("n", [1, 5, A_SEED - 1])
    def test_no_whole_seed(self, tmp_path, n):
        path = written(tmp_path / "s.jsonl", {}, wanted=cells()[:n])
        with path.open("a") as file:
            file.write('{"set": "CB')
        lines = study_report.page(path)
        text = "\n".join(lines)
        assert f"- runs: {n} of {len(cells())}" in text
        assert "nothing is compared yet" in text
        assert lines.count(study_report.UNEQUAL) == 3
        assert "times base's" not in text
        assert "Decided" not in text
        assert cells_of(under(lines, "### TSTR, %, each set"), "training series")[1] == "90"
        assert study_report.summary(path) == []

    def test_unequal_seeds_of_one_set_are_shown_and_not_compared(self, tmp_path):
        wanted = [Cell("CBF", "base", seed) for seed in SEEDS] + [Cell("CBF", "BYOL", 0)]
        part = study_report.page(written(tmp_path / "s.jsonl", {}, wanted=wanted))
        fid = under(part, "### FID of 1,000 generated series, each set")
        assert fid[1] == study_report.UNEQUAL
        assert "±" in cells_of(fid, "base")[1]
        assert "±" not in cells_of(fid, "BYOL")[1]

    def test_one_seed_and_part_of_the_next(self, tmp_path):
        """All of the page is of the seed that is whole."""
        effects = {"timevqvae": 1.0}
        whole = written(tmp_path / "whole.jsonl", effects, wanted=cells()[:A_SEED])
        more = written(tmp_path / "more.jsonl", effects, wanted=cells()[: A_SEED + 100])
        lines, other = study_report.page(more), study_report.page(whole)
        assert lines.count("Seeds 0 of 0, 1, 2.") == 7
        first = lines.index("### Generated series")
        assert lines[first:] == other[other.index("### Generated series") :]
        text = "\n".join(lines)
        assert study_report.EARLY in text
        assert study_report.ONE_SEED in text
        assert "Decided" not in text
        assert "| p |" not in text
        assert "p = " not in text
        assert "to" in cells_of(under(lines, "### Generated series"), "timevqvae")[1]
        for said in ("Seeds 0 of 0, 1, 2.", study_report.EARLY, study_report.ONE_SEED):
            assert said in study_report.summary(more)

    def test_two_seeds(self, tmp_path):
        wanted = [cell for cell in cells() if cell.seed != 1]
        lines = study_report.page(written(tmp_path / "s.jsonl", {}, wanted=wanted))
        assert lines.count("Seeds 0, 2 of 0, 1, 2.") == 7
        assert study_report.EARLY in lines
        assert study_report.ONE_SEED not in lines

    def test_a_set_that_is_half_done_keeps_its_seed_out(self, tmp_path):
        missing = [Cell("Crop", "VAE", 1), Cell("Crop", "VAE", 2)]
        wanted = [cell for cell in cells() if cell not in missing]
        lines = study_report.page(written(tmp_path / "s.jsonl", {}, wanted=wanted))
        assert lines.count("Seeds 0 of 0, 1, 2.") == 7
        assert "±" not in "".join(cells_of(under(lines, "### TSTR, %, each set"), "base"))


def test_is_in_its_page(tmp_path):
    page = tmp_path / "study.md"
    page.write_text("a\n<!-- results -->\nold\n<!-- /results -->\nb\n")
    text = report.between_marks(page, ["new", ""])
    assert text == "a\n<!-- results -->\nnew\n<!-- /results -->\nb\n"
