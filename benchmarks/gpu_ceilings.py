"""What a GPU reaches: copies, matrix products, launches; and which GPU it is."""

import time
from typing import Any

import torch
from gpu_timing import Row, in_turn, summary
from measure import said

from tsgen.measure import Run

F32, BF16 = torch.float32, torch.bfloat16
SIDE, COPIED = 8192, 2**30  # of a matrix; numbers
LAUNCHES = 1000


def ceilings(device: str, seconds: float) -> Row:
    """Rates of medians, and every time that they come from.

    "gb_per_s":     a copy, bytes read and written
    "gflop_per_s":  torch.mm of square matrices, by what the products are taken in
    "launch_us":    of next to nothing: "host" launches, one after the other, and a "graph node"
    """
    times = {"copy": timed_copy(device, seconds)}
    products = {"float32": (F32, "highest"), "tf32": (F32, "high"), "bfloat16": (BF16, "highest")}
    side = SIDE if device == "cuda" else 64
    for name, (dtype, precision) in products.items():
        torch.set_float32_matmul_precision(precision)
        times[name] = timed_product(side, dtype, device, seconds)
    torch.set_float32_matmul_precision("highest")
    n_bytes = 8 * (COPIED if device == "cuda" else 2**16)
    return {
        "gb_per_s": n_bytes / times["copy"]["p50_ms"] / 1e6,
        "gflop_per_s": {name: 2 * side**3 / times[name]["p50_ms"] / 1e6 for name in products},
        "launch_us": launches(device),
        "times": times,
    }


def alone(run: Run, device: str, seconds: float) -> Row:
    row = in_turn({"it": lambda: [run]}, device, seconds)["it"]
    if "why" in row:
        raise RuntimeError(f"no ceiling: {row['why']}")
    return row


def timed_copy(device: str, seconds: float) -> Row:
    big = torch.randn(COPIED if device == "cuda" else 2**16, device=device)
    to = torch.empty_like(big)
    return alone(lambda: to.copy_(big), device, seconds)


def timed_product(side: int, dtype: torch.dtype, device: str, seconds: float) -> Row:
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    return alone(lambda: a @ b, device, seconds)


def launches(device: str) -> Row:
    """Microseconds for one more number in place, launched by the host and from a graph."""
    x = torch.zeros(1, device=device)

    def by_host() -> float:
        start = time.perf_counter()
        for _ in range(LAUNCHES):
            x.add_(1)
        if device == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start) / LAUNCHES

    by_host()
    out = {"host": 1e3 * summary([by_host() for _ in range(10)])["p50_ms"]}
    if device == "cuda":
        out["graph node"] = 1e3 * alone(lambda: x.add_(1), device, 1.0)["p50_ms"]
    return out


def about(device: str) -> dict[str, Any]:
    """The GPU and what drives it."""
    if device != "cuda":
        return {"device": "cpu"}
    import triton

    gpu = torch.cuda.get_device_properties(0)
    driver = said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0")
    return {
        "device": gpu.name,
        "multiprocessors": gpu.multi_processor_count,
        "cache_bytes": gpu.L2_cache_size,
        "memory_bytes": gpu.total_memory,
        "driver": driver,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
    }
