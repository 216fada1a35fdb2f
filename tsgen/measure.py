"""How code is timed here: rivals in turn, on what machine, and what it could reach at best.

Machines are noisy: rivals take turns in one process and ratios are of medians.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgen import dispatch
from tsgen.version import __version__

Run = Callable[[], object]


def interleaved(
    rivals: dict[str, Run], rounds: int, wait: Run = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each rival in each round, A B A B ..., after one warm-up of each.

    wait: returns once what was begun is done: torch.cuda.synchronize for work on a GPU
    """
    for run in rivals.values():
        run()
    wait()
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            wait()
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
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "tsgen": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def waiting(device: str) -> Run:
    """What `interleaved` waits by for work on a device."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def ceilings(rounds: int, device: str = "cpu") -> dict[str, float]:
    """What a device reaches: float32 matrix products, and copies (bytes read and written)."""
    side, n = (8192, 2**28) if device == "cuda" else (1024, 2**24)
    a, b, big = (torch.randn(size, device=device) for size in ((side, side), (side, side), (n,)))
    to = torch.empty_like(big)
    runs: dict[str, Run] = {"mm": lambda: a @ b, "copy": lambda: to.copy_(big)}
    fast = {k: min(s) for k, s in interleaved(runs, rounds, waiting(device)).items()}
    return {"gflop_per_s": 2e-9 * side**3 / fast["mm"], "gb_per_s": 8e-9 * n / fast["copy"]}


def rates(op: str, shape: Any, dtype: torch.dtype, p50_s: float, top: Any) -> dict[str, float]:
    """GFLOP/s, or GB/s of the least traffic possible, and the fraction of the ceiling `top`."""
    module = dispatch.module(op)
    unit, work = "gflop_per_s", module.flops(shape) if hasattr(module, "flops") else 0
    if not work:  # there are no products
        unit, work = "gb_per_s", module.bytes_moved(shape, dtype)
    rate = work / p50_s / 1e9
    return {unit: rate, "of_ceiling": rate / top[unit]}


def exact(inputs: Any) -> list[Any]:
    """The same, already rounded, inputs in float64."""
    return [t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for t in inputs]


def judged(op: str, out: Any, inputs: Any) -> float:
    """Error of a result, of its op's tolerance: it is wrong above 1.

    The baseline in float64 stands for the reference, which is too slow at sizes worth timing;
    tests hold the one to the other.
    """
    module, as_float64 = dispatch.module(op), exact(inputs)
    error = module.error(out, module.baseline(*as_float64), *as_float64)
    allowed = module.TOLERANCE[next(t for t in inputs if isinstance(t, Tensor)).dtype]
    return float(error / allowed) if allowed else (0.0 if error == 0 else float("inf"))


def mismatch(op: str, backend: str, inputs: Any) -> float:
    """`judged`, of what a backend makes of these inputs."""
    return judged(op, dispatch.load(op, backend)(*inputs), inputs)


def backward(run: Callable[..., Any], inputs: Any, wanted: tuple[int, ...]) -> Run:
    """Forward and backward of one call."""
    args, leaves = list(inputs), []
    for i in wanted:
        if args[i] is not None:
            args[i] = args[i].detach().requires_grad_()
            leaves.append(args[i])

    def parts() -> list[Tensor]:
        out = run(*args)
        return [out] if isinstance(out, Tensor) else [t for t in out if t.numel()]

    grads = [torch.ones_like(t) for t in parts()]
    return lambda: torch.autograd.grad(parts(), leaves, grads)
