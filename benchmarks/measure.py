"""What every benchmark shares: rivals timed in turn, the machine they ran on, the results' files.

Machines are noisy: rivals take turns in one process and ratios are of medians.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(rivals: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each rival in each round, A B A B ..., after one warm-up of each."""
    for run in rivals.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: list[float]) -> dict[str, Any]:
    """20th, 50th and 80th percentile, and all of it."""
    p20, p50, p80 = (float(q) for q in np.percentile(seconds, [20, 50, 80]))
    return {"p20_s": p20, "p50_s": p50, "p80_s": p80, "all_s": seconds}


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times faster, of medians."""
    return statistics.median(slow) / statistics.median(fast)


def machine() -> dict[str, Any]:
    """What a reader needs to place a number."""
    git = ["git", "describe", "--always", "--dirty"]
    here = Path(__file__).parent
    done = subprocess.run(git, capture_output=True, text=True, check=False, cwd=here)
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": done.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }


def save(name: str, result: dict[str, Any]) -> Path:
    """Write results/<name>.json; what is there already under other keys stays."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | result, indent=1) + "\n")
    return path
