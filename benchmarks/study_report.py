"""docs/study.md between its marks, from results/study.jsonl; `report.py` writes and checks it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from study_compare import (
    DESCRIPTION,
    GENERATION,
    PEER,
    PROBES,
    Found,
    Runs,
    difference,
    load,
    ranged,
)
from study_plan import BASE, RESULTS, SEEDS, SEEN, SETS, STUDIED, VARIANTS, Budget, Cell, cells
from study_stats import mean_interval

from tsgen.config import PRESETS

LEVEL = 0.05
NOTHING = ["No run has been done yet: `python benchmarks/study.py`.", ""]
OUTDATED = "{} runs have been done, all of other settings than those of now: none of them counts."

UNSEEN = tuple(s for s in SETS if s not in SEEN)
SAID_OF_UNSEEN = "sets whose test parts chose nothing of base"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def seeds_said(runs: Runs) -> list[str]:
    """Which seeds a table is of."""
    whole, wanted = (", ".join(map(str, seeds)) for seeds in (runs.seeds, SEEDS))
    return [f"Seeds {whole} of {wanted}.", ""]


def generation(runs: Runs) -> list[str]:
    """FID and TSTR of every variant beside base's, and mean ranks; p once it is a verdict."""
    p = {name: runs.tested(metric) for name, metric in GENERATION.items()} if runs.are_all else {}
    ranks = {name: runs.ranked(name) for name in GENERATION}
    rows = []
    for v in VARIANTS:
        row = [v]
        for name, metric in GENERATION.items():
            row += [difference(runs, metric, v)]
            row += [f"{p[name][v]:.3f}" if v in p[name] else ""] if p else []
        n_sets = len(runs.values(GENERATION["FID"], [BASE, v])[0])
        row += [str(n_sets), str(runs.n_diverged(v))]
        rows.append([*row, *(ranged(ranks[name][v]) if v in ranks[name] else "" for name in ranks)])
    head = ["variant"]
    for name in ("FID, times base's", "TSTR, points above base's"):
        head += [name, "p"] if p else [name]
    head += ["sets compared", "runs diverged", *(f"{name} rank" for name in GENERATION)]
    return ["### Generated series", "", *seeds_said(runs), *table(head, rows)]


def verdicts(runs: Runs) -> list[str]:
    """What is decided, and what is not; or why nothing is yet."""
    if not runs.seeds:
        return ["No seed is done on every set with every variant: nothing is compared yet.", ""]
    if not runs.are_all:
        return early(runs)
    rows = []
    for name, metric in GENERATION.items():
        p = runs.tested(metric)
        mean = {v: metric.sign * float(runs.against_base(metric, v).mean()) for v in p}
        better = [v for v in p if p[v] < LEVEL and mean[v] > 0]
        worse = [v for v in p if p[v] < LEVEL and mean[v] < 0]
        groups = ("; ".join(them) or "none" for them in (better, worse))
        rows.append([name, *groups, f"{len(p) - len(better) - len(worse)} of {len(p)}"])
    title = f"Decided at Holm's p < {LEVEL}, for each score by itself; undecided is not equal:"
    return [title, "", *table(["score", f"better than {BASE}", "worse", "undecided"], rows)]


def early(runs: Runs) -> list[str]:
    """What keeps a table of some of the seeds from being a result."""
    return [EARLY, "", *([ONE_SEED, ""] if len(runs.seeds) == 1 else [])]


EARLY = """Nothing is decided, and no p is told, before everything is done: looking several times
would spend the error rate. Intervals are a description until then."""
ONE_SEED = """With one seed the noise of the seed is inside every difference, and base's one run on
a set is shared by all comparisons: where it came out badly, all variants look good."""


def beside_peer(runs: Runs) -> list[str]:
    """Base and the preset with timevqvae's sizes and rules: FID, its mean ranks, mean TSTR; and on
    how many sets base is ahead."""
    rows, are_ranked = [], False
    for sets, what in ((tuple(SETS), "all sets"), (UNSEEN, SAID_OF_UNSEEN)):
        whole, tstr_SRV = runs.values(GENERATION["TSTR"], [BASE, PEER], sets)
        if not whole:  # and so no FID: a run that diverged has neither
            continue
        ratio = difference(runs, GENERATION["FID"], PEER, sets)
        rows.append([f"FID, times base's, {what} ({len(whole)})", "1", ratio, ""])
        if PEER in (ranks := runs.ranked("FID", sets)):
            apart = runs.rank_difference("FID", BASE, PEER, sets)
            each = [ranged(mean) for mean in (ranks[BASE], ranks[PEER], apart)]
            rows.append([f"mean FID rank among {len(ranks)}, {what} ({len(whole)})", *each])
            are_ranked = True
        base_SR, peer_SR = 100 * tstr_SRV[..., 0], 100 * tstr_SRV[..., 1]
        each = [ranged(mean_interval(it)) for it in (base_SR, peer_SR, base_SR - peer_SR)]
        rows.append([f"mean TSTR, %, {what} ({len(whole)})", *each])
    if not rows:
        return []
    notes = [paired(runs), *([RANKS_NOTE] if are_ranked else []), ""]
    return [*seeds_said(runs), *table(["", BASE, PEER, "difference"], rows), *notes]


def paired(runs: Runs) -> str:
    """On how many sets base is ahead of its peer, and what the test makes of it."""
    said = []
    for name, metric in GENERATION.items():
        mean_S = metric.sign * runs.against_base(metric, PEER).mean(1)
        p = f", p = {runs.tested(metric)[PEER]:.3f}" if runs.are_all else ""
        said.append(f"{name} on {(mean_S < 0).sum()} of {len(mean_S)} sets{p}")
    return f"Set by set {BASE} is ahead in {'; in '.join(said)}."


RANKS_NOTE = "Ranks tell how many variants lie between: most of them are base with a small change."


def descriptions(runs: Runs) -> list[str]:
    """Everything else of every variant beside base's."""
    out = []
    for title, metrics, note in (
        ("Reconstruction, codes and costs", DESCRIPTION, DESCRIPTION_NOTE),
        ("What classifiers are told", PROBES, PROBES_NOTE),
    ):
        rows = [
            [v, *(difference(runs, metric, v) for metric in metrics.values())]
            for v in VARIANTS
            if v != BASE
        ]
        head = ["variant", *metrics]
        out += [f"### {title}", "", *seeds_said(runs), *table(head, rows), note, ""]
    return out


DESCRIPTION_NOTE = """Times base's: reconstruction error (mean squared, of test series),
perplexity of the codes of each band, CPU seconds of training. Percentage points above base's: the
share of the codes that test series use. Nothing here is corrected for multiple comparisons: read it
as a description. Perplexity and use are left out where a variant has other numbers of codes than
base. Reconstructions are from twice as many tokens with residual codes, from 16 numbers with the
VAE."""
PROBES_NOTE = """Percentage points above base's: accuracy on test series of classifiers trained on
training series, of latents, codes and tokens ([probes](probes.md)). Nothing here is corrected for
multiple comparisons. Not all of it is of like things: probes see 256 numbers of latents and of
codes, of one band 128, of the VAE 16; and as many frequencies of tokens as there are codes."""


def each_set(runs: Runs, budget: Budget) -> list[str]:
    """FID and TSTR of every variant on every set; of all runs while no seed is whole."""
    which = seeds_said(runs) if runs.seeds else [UNEQUAL, ""]
    n, out = budget.n_generated, []
    for title, key, real, scale in (
        (f"FID of {n:,} generated series, each set", "fid", "fid_train", 1),
        ("FID at equal n, each set", "fid_equal_n", "fid_train", 1),
        ("TSTR, %, each set", "tstr", "trtr", 100),
    ):
        rows = [[v, *(scored(runs, s, v, key, scale) for s in SETS)] for v in VARIANTS]
        rows += [["training series", *(scored_real(runs.found, s, real, scale) for s in SETS)]]
        out += [f"### {title}", "", *which, *table(["variant", *SETS], rows)]
    return [*out, "With ±: means over seeds, and standard deviations. Without: single runs.", ""]


UNEQUAL = "What has been run so far, of some sets and seeds: no comparison."


def scored(runs: Runs, s: str, v: str, key: str, scale: float) -> str:
    """Mean ± standard deviation over seeds, and how many of them diverged."""
    seeds = runs.seeds or SEEDS
    rows = [runs.found[cell] for seed in seeds if (cell := Cell(s, v, seed)) in runs.found]
    numbers = [scale * row[key] for row in rows if "error" not in row]
    failed = f"{len(rows) - len(numbers)} diverged" if len(numbers) < len(rows) else ""
    if not numbers:
        return failed
    spread = f" ± {np.std(numbers, ddof=1):.2g}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.3g}{spread} {failed}".strip()


def scored_real(found: Found, s: str, key: str, scale: float) -> str:
    """What training series score: every run of a set says the same."""
    rows = [row for cell, row in found.items() if cell.set == s and "error" not in row]
    return f"{scale * rows[0][key]:.3g}" if rows else ""


def plan(found: Found, budget: Budget) -> list[str]:
    """What has been run, where, and on what."""
    machines = [row["machine"] for row in found.values()]
    hours = sum(row.get("total_seconds", 0) for row in found.values()) / 3600
    n_diverged = sum("error" in row for row in found.values())
    facts = {
        "runs": f"{len(found)} of {len(cells())}, {n_diverged} diverged",
        "budget": f"{budget.steps[0]} steps of stage 1, {budget.steps[1]} of each prior, "
        f"batches of {budget.batch_size}",
        "hours of workers, on cores with other work": f"{hours:.1f}",
        "machine": "; ".join(sorted({f"{m['cpu']}, torch {m['torch']}" for m in machines})),
        "dates": ", ".join(sorted({m["date"] for m in machines})),
        "commits": ", ".join(sorted({m["commit"] for m in machines})),
        f"preset {BASE} now": "as it was studied" if PRESETS[BASE] == STUDIED else "changed since",
    }
    sizes = {cell.set: row for cell, row in found.items()}
    rows = [
        [s, f"{C} × {L}", f"{sizes[s]['n_train']} / {sizes[s]['n_test']}", SETS[s]]
        for s in SETS
        if s in sizes
        for C, L in [sizes[s]["shape"]]
    ]
    sets = table(["set", "channels × length", "train / test", "what"], rows)
    changes = [[v, f"`{change(v)}`"] for v in VARIANTS if v != BASE]
    variants = table(["variant", "what differs from base"], changes)
    facts_said = [*(f"- {name}: {fact}" for name, fact in facts.items()), ""]
    return [*facts_said, *sets, *variants, *codes(found)]


def change(v: str) -> str:
    """What a variant changes, as one writes it."""
    changes = VARIANTS[v].fit | VARIANTS[v].preset
    usual = STUDIED.tokenizer
    changes |= {k: x for k, x in changes.pop("tokenizer", {}).items() if x != usual.get(k)}
    if "ssl" in changes:
        inner = ", ".join(f"{key}={value!r}" for key, value in changes["ssl"].items())
        return f"ssl=SslConfig({inner})"
    return ", ".join(f"{key}={value!r}" for key, value in changes.items())


def codes(found: Found) -> list[str]:
    """Numbers of codes, of base and of the variants that have others on some set."""
    numbers: dict[str, dict[str, str]] = {v: {} for v in VARIANTS}
    for cell, row in found.items():
        if "error" not in row and row["config"]["vae"] is None:
            each = row["config"]["tokenizer"]["n_codes"]
            numbers[cell.variant][cell.set] = ", ".join(map(str, each))
    base = numbers[BASE]
    other = [v for v in VARIANTS if any(n != base.get(s, n) for s, n in numbers[v].items())]
    rows = [[v, *(numbers[v].get(s, "") for s in SETS)] for v in (BASE, *other)]
    return table(["codes of the low and the high band", *SETS], rows)


def page(path: Path = RESULTS) -> list[str]:
    """docs/study.md between its marks."""
    budget = Budget()
    runs = load(path, budget)
    if not runs.found:
        return [OUTDATED.format(runs.n_outdated), ""] if runs.n_outdated else NOTHING
    parts = [plan(runs.found, budget), verdicts(runs)]
    if runs.seeds:
        title = [f"### {BASE} beside {PEER}", ""]
        parts += [generation(runs), title, beside_peer(runs), descriptions(runs)]
    return [line for part in [*parts, each_set(runs, budget)] for line in part]


def summary(path: Path = RESULTS) -> list[str]:
    """For the README: what is decided, and base beside its peer."""
    runs = load(path, Budget())
    lines = beside_peer(runs)
    n = len(VARIANTS) - 1
    title = f"**{n} settings beside preset {BASE}**, short training ([all of it](docs/study.md))"
    return [title, "", *verdicts(runs), f"Presets {BASE} and {PEER}:", "", *lines] if lines else []
