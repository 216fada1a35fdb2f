"""The GPU's part of the README and of docs/benchmarks.md, from results/gpu.json."""

import math
from typing import Any

Found = dict[str, Any]

PARTS = ("forward", "forward + backward")
OURS = ("cuda", "triton")  # backends
BY_KERNELS = "engine cuda, bfloat16, by {}"  # a contender among the loops, see CudaEngine
PARTS_OF_OP = "a kernel for each part"  # the rival of one that is all of them

NOTHING = "Nothing has been measured on a GPU: what LOG.md says of one are floors, computed."

HOW = """## On a GPU

On a machine with one GPU, nvcc and all dependencies, but no network,

    make gpu

builds tsgen for it, runs the tests with what would be skipped for want of a GPU as failures, and
then `python benchmarks/gpu.py`, within nine minutes, which leaves `benchmarks/results/gpu.json`
(`GPU_RESULTS=` names another file): what the GPU reaches in the same run, every op in float32 and
bfloat16 beside its baseline and rivals, and whole decoding loops. `--smoke` tries all of that on a
CPU with tiny shapes, `OP ...` takes some ops only.

A row is timed only after it has matched the baseline in float64; what did not match, did not run
or found no time says so in its place. Rivals take turns, their calls captured in a CUDA graph each;
one that waits for the GPU cannot be captured and is timed as the host calls it. The cache is
cleared before each round, and small inputs rotate. "Of the floor" is the floor over the time; the
floor is the least traffic possible over the rate of a copy, or the products over the rate of
torch.mm in that dtype (float32 is never TF32), whichever takes longer. torch.compile takes part at
the first shape of an op.
"""


def sentence(found: Found) -> list[str]:
    """For the README."""
    if not found:
        return [NOTHING, ""]
    out = [f"**On a GPU** ({place(found)}), see [docs/benchmarks.md](docs/benchmarks.md)", ""]
    return [*out, *loops(found)]


def page(found: Found) -> list[str]:
    """For docs/benchmarks.md."""
    if not found:
        return [HOW, NOTHING, ""]
    return [HOW, f"{place(found)}. {reached(found)}", "", *loops(found), *kernels(found)]


def place(found: Found) -> str:
    at = found["about"]
    versions = f"driver {at['driver']}, CUDA {at['cuda']}, torch {at['torch']}"
    return f"{at['device']}, {versions}, Triton {at['triton']}, {at['date']}"


def reached(found: Found) -> str:
    """The ceilings."""
    top = found["ceilings"]
    mm = ", ".join(f"{v / 1e3:.0f} in {name}" for name, v in top["gflop_per_s"].items())
    us = ", ".join(f"{v:.2g} µs ({name})" for name, v in top["launch_us"].items())
    rate = f"A copy reaches {top['gb_per_s']:.0f} GB/s"
    return f"{rate}, torch.mm TFLOP/s: {mm}. A launch costs {us}."


def loops(found: Found) -> list[str]:
    """Whole decoding loops, a row for each contender."""
    out = ["| decoding | | ms: p20, p50, p80 | series a second | GB |", "|---" * 5 + "|"]
    for key, loop in found["decoding"].items():
        for name, run in loop.get("runs", {}).items():
            cells = [run["why"], "", ""] if "why" in run else loop_cells(run)
            out.append(f"| {key} | {name} | {' | '.join(cells)} |")
    return [*out, "", *left_out(found["decoding"])]


def loop_cells(run: Found) -> list[str]:
    memory = f"{run['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in run else ""
    return [percentiles(run), f"{run['series_per_s']:,.0f}", memory]


def kernels(found: Found) -> list[str]:
    """Every kernel of ours, a row for each shape, dtype and direction."""
    head = ["op, shape, dtype", "kernel", "ms: p20, p50, p80", "rate, of the floor"]
    out = [f"| {' | '.join(head)} | times faster than |", "|---" * 5 + "|"]
    for key, case in found["ops"].items():
        for part in PARTS:
            rows = case.get(part, {})
            for name in filter(rows.__contains__, OURS):
                cells = " | ".join(kernel_cells(name, rows))
                out.append(f"| {key} {part} | {name} | {cells} |")
    return [*out, "", *left_out(found["ops"])]


def cuda_is_faster(found: Found) -> dict[str, tuple[str, ...]]:
    """op: dtypes at which the CUDA kernel takes less time than what runs without it: the Triton
    one, or ops that do the same in parts. Over all shapes; "decode" is a band's whole loop."""
    logs: dict[tuple[str, str], list[float]] = {}

    def compare(op: str, dtype: str, rows: Found, ours: str, other: str) -> None:
        ms = [rows.get(name, {}).get("p50_ms") for name in (ours, other)]
        if all(ms):
            logs.setdefault((op, dtype), []).append(math.log(ms[0] / ms[1]))

    for case in found.get("ops", {}).values():
        for rows in (case.get(part, {}) for part in PARTS):
            other = "triton" if "triton" in rows else PARTS_OF_OP
            dtype = case.get("dtype", "").removeprefix("torch.")
            compare(case.get("op", ""), dtype, rows, "cuda", other)
    for loop in found.get("decoding", {}).values():
        names = (BY_KERNELS.format(kernels) for kernels in ("bands", "parts"))
        compare("decode", "bfloat16", loop.get("runs", {}), *names)
    faster = sorted(key for key, ratios in logs.items() if sum(ratios) < 0)
    return {op: tuple(t for name, t in faster if name == op) for op, _ in faster}


def left_out(section: Found) -> list[str]:
    """What was not measured at all, and why."""
    why = [f"- {key}: {row['why']}" for key, row in section.items() if "why" in row]
    return [*why, ""] if why else []


def kernel_cells(name: str, rows: Found) -> list[str]:
    """Times, rate, and how far ahead it is of whom; or why it was not timed."""
    run, rate = rows[name], ""
    if "why" in run:
        return [run["why"], "", ""]
    if "of_floor" in run:
        unit = "gflop_per_s" if "gflop_per_s" in run else "gb_per_s"
        rate = f"{run[unit]:,.0f} {UNITS[unit]}, {run['of_floor']:.0%}"
    ahead = []
    for rival, row in rows.items():
        if rival not in OURS:
            times = f"{row['p50_ms'] / run['p50_ms']:.2f}" if "p50_ms" in row else f"({row['why']})"
            ahead.append(f"{rival} {times}")
    return [percentiles(run), rate, ", ".join(ahead)]


UNITS = {"gflop_per_s": "GFLOP/s", "gb_per_s": "GB/s"}


def percentiles(row: Found) -> str:
    return ", ".join(f"{row[f'p{p}_ms']:.3g}" for p in (20, 50, 80))
