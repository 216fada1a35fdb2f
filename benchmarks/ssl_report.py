"""The tables of docs/ssl.md, from results/ssl_steps.json and results/ssl_quality.json."""

from typing import Any

NOTE = """Of the test part, after {steps:,} steps of stage 1 alone, everything else equal.
Probe: ridge on the mean over tokens, before and after quantisation; error: mean squared, of the
reconstruction."""


def page(text: str, steps: dict[str, Any], quality: dict[str, Any]) -> str:
    """docs/ssl.md with what was measured between its marks."""
    marks = "<!-- ssl results -->", "<!-- /ssl results -->"
    before, rest = text.split(marks[0])
    after = rest.split(marks[1])[1]
    body = "\n".join(["", *costs(steps), *qualities(quality)])
    return f"{before}{marks[0]}{body}{marks[1]}{after}"


def costs(steps: dict[str, Any]) -> list[str]:
    """What a step costs."""
    lines = []
    for title, result in steps.items():
        machine = result["machine"]
        lines += [f"**A step of stage 1**, {title}, preset base, length 128, rivals in turn", ""]
        lines += ["| | median | of the plain step |", "|---|---|---|"]
        for name, row in result["rivals"].items():
            lines.append(f"| {name} | {1e3 * row['p50_s']:.1f} ms | {row['ratio']:.2f} × |")
        where = f"{machine['cpu']}, threads: {machine['threads']}, torch {machine['torch']}"
        lines += ["", f"{where}, {machine['date']}.", ""]
    return lines


def qualities(quality: dict[str, Any]) -> list[str]:
    """What self-supervision does, set by set."""
    if not quality:
        return []
    lines = ["**Collapse, probes and reconstruction**", ""]
    lines += ["| set | `ssl=` | feature std | rank | probe, latents | codes | error |"]
    lines += ["|---|---|---|---|---|---|---|"]
    steps = next(iter(quality.values()))["steps"]
    for row in sorted(quality.values(), key=lambda row: (row["set"], row["ssl"] is not None)):
        name = f"`{row['ssl']['objective']}`" if row["ssl"] else "none"
        if row["steps"] != steps:
            raise ValueError(f"{row['set']}, {name}: wanted {steps} steps, got {row['steps']}")
        numbers = f"{row['feature_std']:.3f} | {row['feature_rank']:.0f}"
        probes = f"{row['probe_latents']:.1%} | {row['probe_codes']:.1%}"
        lines.append(
            f"| {row['set']} | {name} | {numbers} | {probes} | {row['reconstruction']:.4f} |"
        )
    return [*lines, "", *NOTE.format(steps=steps).splitlines(), ""]
