"""Write the README's tables from benchmarks/results/.

    python benchmarks/report.py [--check]

--check writes nothing and fails if the README is not what the results say.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
MARKS = "<!-- results -->", "<!-- /results -->"


def results(name: str) -> dict[str, Any]:
    """One results file, or nothing."""
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def place(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']},"
        f" {machine['date']}"
    )


def speed() -> list[str]:
    """Sampling beside the official package."""
    rows = results("against_timevqvae")
    if not rows:
        return []
    out = ["**Sampling speed**, the same weights in both, rivals in turn in one process", ""]
    out += [
        "| series of length 128, 10 + 10 steps | timevqvae 1.0.1 | tsgen, engine torch | ratio |"
    ]
    out += ["|---|---|---|---|"]
    for key, row in rows.items():
        rival, ours = row.get("timevqvae 1.0.1"), row["tsgen, engine torch"]
        cells = [f"{rival['p50_s']:.2f} s", f"{ours['p50_s']:.2f} s", f"{row['ratio']:.1f} ×"]
        out.append(f"| {key.removeprefix('n=')} | {' | '.join(cells)} |")
    return [*out, "", f"Medians; {place(row['machine'])}.", ""]


def quality() -> list[str]:
    """Models trained with the defaults."""
    rows = results("quality")
    if not rows:
        return []
    out = ["**Quality on real data**, `tsgen.fit(X, y)` with its defaults", ""]
    out += [
        "| set | channels × length | train / test | minutes | FID | floor | FID / floor | TSTR | TRTR |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        value = {key: median(row[key]) for key in ("fid", "fid_floor", "tstr", "trtr")}
        out.append(
            f"| {name} | {row['shape'][0]} × {row['shape'][1]} | {row['n_train']} / {row['n_test']}"
            f" | {row['minutes']:.1f} | {value['fid']:.3f} | {value['fid_floor']:.3f}"
            f" | {value['fid'] / value['fid_floor']:.1f} | {100 * value['tstr']:.1f} %"
            f" | {100 * value['trtr']:.1f} % |"
        )
    note = (
        "FID on seeded ROCKET features of as many generated series as there are training ones,"
        " against the test part; its floor is that of the training series themselves. TSTR: ridge on"
        " the same features, trained on generated series, tested on real ones; TRTR: trained on real"
        f" ones. Medians of 3 seeds; {place(row['machine'])}."
    )
    return [*out, "", note, ""]


def rest() -> list[str]:
    """Single figures."""
    out = []
    for row in results("bundled_cbf").values():
        out.append(
            f"- Bundled `cbf`: ridge on ROCKET features trained on 1,000 generated series classifies"
            f" {100 * row['tstr']:.1f} % of the real CBF test set; trained on the 30 real ones,"
            f" {100 * row['trtr']:.1f} %."
        )
    for row in results("import_time").values():
        out.append(
            f"- `import tsgen` and a look at every public name add {row['p50_s']:.2f} s to torch's own"
            f" import ({place(row['machine'])})."
        )
    return [*out, ""] if out else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = README.read_text()
    before, rest_of_it = text.split(MARKS[0])
    after = rest_of_it.split(MARKS[1])[1]
    body = "\n".join(["", *speed(), *quality(), *rest()])
    new = f"{before}{MARKS[0]}{body}{MARKS[1]}{after}"
    if check and new != text:
        sys.exit("README.md is not what benchmarks/results/ says: run python benchmarks/report.py")
    if not check:
        README.write_text(new)


if __name__ == "__main__":
    main()
