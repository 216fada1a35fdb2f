"""Everything on a GPU, measured in one run: its ceilings, every op beside its rivals, whole loops.

    python benchmarks/gpu.py [OP ...] [--out FILE] [--minutes 5] [--smoke]

Writes one JSON, after every row, the most important rows first; what there was no time for says so.
Another process takes over where one died. --smoke does the same on a CPU with tiny shapes.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_ceilings
import gpu_decoding
import gpu_ops
import gpu_timing
import measure
import torch
from gpu_ops import Place

from tsgen import dispatch

Found = dict[str, Any]

BEGAN = {"why": "the process died, or was stopped, while this was measured"}
LATE = {"why": "left out: no time"}
GRACE = 30  # seconds beyond the last, for what cannot be interrupted
SMOKE = Place("cpu", seconds=0.02, compiler="eager", small=True)


def work(args: argparse.Namespace, place: Place) -> None:
    """Measure what the file has not yet."""
    torch.backends.cudnn.allow_tf32 = False  # the baselines' float32 is float32
    gc.freeze()
    found: Found = json.loads(args.out.read_text())
    if "ceilings" not in found:
        found["about"] = measure.machine() | gpu_ceilings.about(place.device)
        found["ceilings"] = gpu_ceilings.ceilings(place.device, place.seconds)
        save(args.out, found)
    for section, key, run in tasks(args.ops, place, found["ceilings"]):
        if key in found[section]:
            continue
        late = time.time() > args.until
        found[section][key] = LATE if late else BEGAN
        if not late:
            save(args.out, found)
            found[section][key] = measured(run, place)
            print(line(section, key, found[section][key]), flush=True)
        save(args.out, found)
        if place.device == "cuda":
            torch.rand(1, device="cuda")  # a capture that failed may have broken it: a new process


def tasks(ops: list[str], place: Place, top: Found) -> list[tuple[str, str, Callable[[], Found]]]:
    """Section of the file, key, and what measures it; what matters most comes first."""
    cases = gpu_ops.cases(ops or list(dispatch.TABLE), place)
    loops = [] if ops else gpu_decoding.loops(place)

    def case_task(case: gpu_ops.Case) -> tuple[str, str, Callable[[], Found]]:
        return "ops", str(case), lambda: gpu_ops.measured(case, place, top)

    def loop_task(loop: gpu_decoding.Loop) -> tuple[str, str, Callable[[], Found]]:
        return "decoding", str(loop), lambda: gpu_decoding.measured(loop, place)

    engines = [loop_task(loop) for loop in loops if loop.rivals == "engines"]
    compiled = [loop_task(loop) for loop in loops if loop.rivals != "engines"]
    first = sum(case.shape == gpu_ops.shapes_of(case.op, place)[0] for case in cases)
    ranked = [case_task(case) for case in cases]
    return engines + ranked[:first] + compiled + ranked[first:]


def measured(run: Callable[[], Found], place: Place) -> Found:
    try:
        return run()
    except Exception as error:
        return {"why": gpu_timing.reason(error, place.device)}
    finally:
        torch.compiler.reset()  # or it would give up after a few shapes
        gc.collect()
        if place.device == "cuda":
            torch.cuda.empty_cache()


def line(section: str, key: str, row: Found) -> str:
    """One line of progress."""
    runs = row.get("forward" if section == "ops" else "runs", {})
    times = [f"{k} {v['p50_ms']:.4g}" if "p50_ms" in v else f"{k} -" for k, v in runs.items()]
    return f"{key}: {row.get('why') or 'ms ' + ', '.join(times)}"


def save(path: Path, found: Found) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n")


def rows(found: Found) -> int:
    return "ceilings" in found and 1 + len(found["ops"]) + len(found["decoding"])


def drive(args: argparse.Namespace) -> int:
    """Let processes work on the file until it is done, or until none gets any further."""
    save(args.out, {"ops": {}, "decoding": {}})
    command = [sys.executable, __file__, *args.ops, "--out", str(args.out), "--worker"]
    command += ["--until", str(args.until), *(["--smoke"] if args.smoke else [])]
    done = -1
    while rows(json.loads(args.out.read_text())) > done:
        done = rows(json.loads(args.out.read_text()))
        try:
            left = max(GRACE, args.until + GRACE - time.time())
            code = subprocess.run(command, check=False, timeout=left).returncode
        except subprocess.TimeoutExpired:
            args.until = 0  # the next process only notes what is left out
            command[command.index("--until") + 1] = "0"
            continue
        if code == 0:
            return told(json.loads(args.out.read_text()))
    return 1


def told(found: Found) -> int:
    """Say which of our kernels are wrong; 1 if there are any."""
    wrong = [
        f"{key} {what}: {name} {row['why']}"
        for key, case in found["ops"].items()
        for what in (gpu_ops.FORWARD, gpu_ops.BOTH)
        for name, row in case.get(what, {}).items()
        if name in dispatch.TABLE[case["op"]] and row.get("why", "").startswith("is wrong")
    ]
    print(*wrong, sep="\n")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ops", nargs="*", help="some only, and no whole loops")
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "gpu.json")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--until", type=float, help="seconds since 1970, instead of minutes")
    parser.add_argument("--seconds", type=float, default=1.0, help="for one direction of one case")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.until = time.time() + 60 * args.minutes if args.until is None else args.until
    if args.smoke and args.out.resolve().parent == measure.RESULTS.resolve():
        parser.error("--smoke needs --out, outside of benchmarks/results")
    if args.worker:
        work(args, SMOKE if args.smoke else Place("cuda", args.seconds))
        return 0
    if not args.smoke and not torch.cuda.is_available():
        parser.error("no GPU; --smoke tries everything on the CPU")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    return drive(args)


if __name__ == "__main__":
    sys.exit(main())
