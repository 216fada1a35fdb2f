"""Write from benchmarks/results/: the README's tables, docs/{benchmarks,ssl,study}.md, measured.py.

    python benchmarks/report.py [--check]

--check writes nothing and fails if they are not what the results say.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import gpu_report
import ssl_report
import study_report

HERE = Path(__file__).parent
README, DOCS = HERE.parent / "README.md", HERE.parent / "docs"
BENCHMARKS, SSL, STUDY = DOCS / "benchmarks.md", DOCS / "ssl.md", DOCS / "study.md"
MEASURED = HERE.parent / "tsgen" / "measured.py"
MARKS = "<!-- results -->", "<!-- /results -->"


def results(name: str) -> dict[str, Any]:
    """One results file, or nothing."""
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def place(machine: dict[str, Any]) -> str:
    chip = machine.get("gpu") or machine["cpu"]
    return f"{chip}, threads: {machine['threads']}, torch {machine['torch']}, {machine['date']}"


def places(rows: dict[str, Any]) -> str:
    """Where and when rows were measured, each such place once."""
    return "; ".join(dict.fromkeys(place(row["machine"]) for row in rows.values()))


def speed() -> list[str]:
    """Sampling beside the official package and beside PyTorch."""
    rows = results("against_timevqvae")
    if not rows:
        return []
    out = ["**Sampling speed**, the same weights in all, rivals in turn in one process", ""]
    names = list(dict.fromkeys(name for row in rows.values() for name in row["rivals"]))
    out += [f"| length 128, 10 + 10 steps | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for key, row in rows.items():
        cells = [time_and_ratio(row["rivals"].get(name)) for name in names]
        out.append(f"| {key} | {' | '.join(cells)} |")
    of_mm = "; ".join(f"{key}: {row['of_mm']:.0%}" for key, row in rows.items())
    note = f"Medians, and how many times that of engine cpu. {places(rows)}. Engine cpu's matrix"
    return [*out, "", f"{note} products per second, of what torch.mm reaches: {of_mm}.", ""]


def time_and_ratio(row: dict[str, Any] | None) -> str:
    if not row:
        return ""
    seconds = row["p50_s"]
    time = f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
    return f"{time} ({row['ratio']:.1f} ×)"


def training() -> list[str]:
    """Training steps beside the official package, on a CPU and on a GPU."""
    runs = {"CPU": results("training_steps"), "GPU": results("gpu_training_steps")}
    return [line for kind, rows in runs.items() if rows for line in training_on(kind, rows)]


def training_on(kind: str, rows: dict[str, Any]) -> list[str]:
    """One table of training steps."""
    out = [f"**Training steps on a {kind}**, sizes of preset timevqvae, rivals in turn", ""]
    names = list(dict.fromkeys(name for row in rows.values() for name in row["rivals"]))
    out += [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for key, row in rows.items():
        cells = [time_and_ratio(row["rivals"].get(name)) for name in names]
        out.append(f"| {key} | {' | '.join(cells)} |")
    return [*out, "", f"Medians, and how many times tsgen's; {places(rows)}.", ""]


def kernels() -> list[str]:
    """How far ahead of its best rival each op's CPU kernel is, in short."""
    found = results("rivals")
    if not found:
        return []
    out = ["**CPU kernels**, how many times faster than the best rival, from shape to shape", ""]
    out += ["| op | " + " | ".join(f"forward, {t} | and backward, {t}" for t in found) + " |"]
    out += ["|---" * (2 * len(found) + 1) + "|"]
    for op in dict.fromkeys(key.split()[0] for run in found.values() for key in run["rows"]):
        cells = []
        for run in found.values():
            for what in (" forward", " forward + backward"):
                rows = [
                    r for k, r in run["rows"].items() if k.startswith(f"{op} ") and k.endswith(what)
                ]
                ahead = [min(rivals(r).values()) for r in rows]
                cells.append(f"{min(ahead):.1f} to {max(ahead):.1f}" if ahead else "")
        out.append(f"| {op} | {' | '.join(cells)} |")
    note = "Rivals: the plain PyTorch baseline of the op, torch.stft, torch.istft, bare"
    out += ["", f"{note} scaled_dot_product_attention,"]
    out += [
        "addmm or cdist and argmin, FAISS, vector-quantize-pytorch, Categorical, multinomial,",
        "Gumbel, cumsum + searchsorted, whichever is fastest.",
    ]
    return [*out, f"Every shape: [docs/benchmarks.md](docs/benchmarks.md). {places(found)}.", ""]


NO_RIVAL = "the product alone"  # a part of the work, shown beside the whole


def rivals(row: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in row["times_faster_than"].items() if k != NO_RIVAL}


def every_kernel() -> str:
    """docs/benchmarks.md: every shape, every rival."""
    out = [BENCHMARKS_HEAD]
    for threads, run in results("rivals").items():
        top = run["ceilings"]
        out += [f"## {threads}", ""]
        out += [
            f"{place(run['machine'])}. torch.mm reaches {top['gflop_per_s']:.0f} GFLOP/s, a copy"
            f" {top['gb_per_s']:.0f} GB/s.",
            "",
            "| op, shape | ms: p20, p50, p80 | rate, of the ceiling | times faster than |",
            "|---|---|---|---|",
        ]
        for key, row in run["rows"].items():
            times = ", ".join(f"{1e3 * row[f'p{p}_s']:.3g}" for p in (20, 50, 80))
            rate = ""
            if "of_ceiling" in row:
                unit = "gflop_per_s" if "gflop_per_s" in row else "gb_per_s"
                rate = f"{row[unit]:.0f} {UNITS[unit]}, {row['of_ceiling']:.0%}"
            ahead = ", ".join(f"{k} {v:.2f}" for k, v in row["times_faster_than"].items())
            out.append(f"| {key} | {times} | {rate} | {ahead} |")
        out.append("")
    return "\n".join([*out, *scaling(), *gpu_report.page(results("gpu"))])


def scaling() -> list[str]:
    """How time grows with each size, a row for every rival."""
    runs = results("scaling")
    if not runs:
        return []
    out = ["## How time grows", "", SCALING_NOTE.format(places=places(runs)), ""]
    for what in dict.fromkeys(key for run in runs.values() for key in run if key != "machine"):
        sizes = list(dict.fromkeys(size for run in runs.values() for size in run[what]))
        out += [f"| {what} | {' | '.join(sizes)} |", "|---" * (len(sizes) + 1) + "|"]
        for threads, run in runs.items():
            for name in dict.fromkeys(name for row in run[what].values() for name in row):
                rows = [run[what].get(size, {}).get(name) for size in sizes]
                cells = [milliseconds(row["p50_s"]) if row else "" for row in rows]
                out.append(f"| {name}, {threads} | {' | '.join(cells)} |")
        out.append("")
    return out


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f}" if seconds >= 1 else f"{1e3 * seconds:.3g}"


SCALING_NOTE = """Milliseconds, medians, rivals in turn; from `benchmarks/results/scaling.json`,
which `python benchmarks/scaling.py` measures. Sampling is that of preset timevqvae with random
weights, tokens and series, 10 + 10 steps; what does not change is 256 series of 128 samples and
1024 codes. Engine torch computes 64 series at a time even where fewer are asked for. {places}."""
UNITS = {"gflop_per_s": "GFLOP/s", "gb_per_s": "GB/s"}
BENCHMARKS_HEAD = """# Every CPU kernel beside its rivals

Written by `python benchmarks/report.py` from `benchmarks/results/rivals.json`, which
`python benchmarks/rivals.py` measures: rivals in turn in one process, ratios of medians. "the
product alone" is a part of the work, the head's matrix product. Rates are of matrix products where
an op has them, else of the least traffic possible.
"""


def quality() -> list[str]:
    """Models trained with the defaults."""
    rows = results("quality")
    if not rows:
        return []
    out = ["**Quality on real data**, `tsgen.fit(X, y)` with its defaults", ""]
    head = "set | channels × length | train / test | minutes | FID | floor | ratio | TSTR | TRTR"
    out += [f"| {head} |", "|---" * 9 + "|"]
    short = []
    for name, row in rows.items():
        fid, floor, tstr, trtr = (median(row[key]) for key in ("fid", "fid_floor", "tstr", "trtr"))
        cells = [name, f"{row['shape'][0]} × {row['shape'][1]}"]
        cells += [f"{row['n_train']} / {row['n_test']}", f"{row['minutes']:.1f}"]
        cells += [f"{fid:.3f}", f"{floor:.3f}", f"{fid / floor:.1f}"]
        cells += [f"{100 * tstr:.1f} %", f"{100 * trtr:.1f} %"]
        out.append(f"| {' | '.join(cells)} |")
        short += [f"{name} ({fid / floor:.1f} times the floor)"] if fid > MOST_FID * floor else []
        short += [f"{name} ({100 * tstr:.1f} %)"] if tstr < trtr - MOST_LOSS else []
    out += ["", QUALITY_NOTE.format(place=places(rows)), ""]
    remarks = dict.fromkeys(row["remark"] for row in rows.values() if row.get("remark"))
    out += [*remarks, ""] if remarks else []
    if short:
        out += [
            f"The goal, FID within {MOST_FID} times its floor and TSTR within 5 points of TRTR, is"
        ]
        out += [f"not reached on {', '.join(short)}: see LOG.md.", ""]
    return out


MOST_FID, MOST_LOSS = 3, 0.05  # what we aim at: times the floor, and below TRTR
QUALITY_NOTE = """FID on seeded ROCKET features of as many generated series as there are training
ones, against the test part; its floor is that of the training series themselves. TSTR: ridge on the
same features, trained on generated series, tested on real ones; TRTR: trained on real ones. Medians
of 3 seeds of sampling and features; {place}."""


def rest() -> list[str]:
    """Single figures."""
    out = []
    for row in results("bundled_cbf").values():
        out += [
            "- Bundled `cbf`: ridge on ROCKET features of 1,000 generated series is right on",
            f"  {100 * row['tstr']:.1f} % of the real CBF test set; trained on the 30 real ones, on"
            f" {100 * row['trtr']:.1f} %.",
        ]
    for key, row in results("memory").items():
        steps = row["steps"] if isinstance(row["steps"], list) else [row["steps"]] * 2
        cost = f"{row['minutes']:.0f} minutes, {row['bytes'] / 1e6:.0f} MB"
        out += [
            f"- {key} of bundled `cbf` to disk in {' + '.join(map(str, steps))} steps ({cost}):",
            f"  at most {row['peak_mb']:.0f} MB of memory, {row['grown_mb']:+.1f} MB from the"
            " second minute to the last.",
        ]
    for row in results("import_time").values():
        out += [
            f"- `import tsgen` with every public name adds {row['p50_s']:.2f} s to torch alone.",
        ]
    return [*out, ""] if out else []


def measured() -> str:
    """tsgen/measured.py."""
    faster = gpu_report.cuda_is_faster(results("gpu"))
    rows = [f'    "{op}": {tuple_of(dtypes)},\n' for op, dtypes in faster.items()]
    return MEASURED_HEAD + (f"{{\n{''.join(rows)}}}\n" if rows else "{}\n")


def tuple_of(words: tuple[str, ...]) -> str:
    return "(" + "".join(f'"{word}", ' for word in words).strip() + ")"


MEASURED_HEAD = '''"""Where CUDA kernels are faster than Triton's, by benchmarks/report.py."""

# op: the dtypes of its first tensor, by benchmarks/results/gpu.json
CUDA_IS_FASTER: dict[str, tuple[str, ...]] = '''


def between_marks(path: Path, lines: list[str]) -> str:
    """A page with these lines in the place that is generated."""
    before, rest_of_it = path.read_text().split(MARKS[0])
    after = rest_of_it.split(MARKS[1])[1]
    body = "\n".join(["", *lines])
    return f"{before}{MARKS[0]}{body}{MARKS[1]}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    parts = [*speed(), *training(), *kernels(), *gpu_report.sentence(results("gpu"))]
    readme = between_marks(README, [*parts, *quality(), *study_report.summary(), *rest()])
    study = between_marks(STUDY, study_report.page())
    ssl = ssl_report.page(SSL.read_text(), results("ssl_steps"), results("ssl_quality"))
    pages = {README: readme, BENCHMARKS: every_kernel(), MEASURED: measured()}
    pages |= {SSL: ssl, STUDY: study}
    for path, page in pages.items():
        if not check:
            path.write_text(page)
        elif not path.exists() or path.read_text() != page:
            sys.exit(f"{path.name} is not what benchmarks/results/ says: run {Path(__file__).name}")


if __name__ == "__main__":
    main()
