"""What `tsgen bench` measures: every kernel beside its op's baseline, and sampling by each engine.

A kernel is timed only after its result has matched. Rates are of matrix products where an op has
them, else of the least traffic possible; ceilings are the device's own, measured in the same run.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from tsgen import arguments, dispatch, measure, sampler
from tsgen.checks import one_of
from tsgen.measure import Run
from tsgen.model import Model
from tsgen.request import Request

Row = dict[str, Any]


def run(
    ops: list[str] | None, model: Model | None, n: int, rounds: int, threads: int | None
) -> dict[str, Any]:
    """All that is asked for, in one run.

    ops:      names of ops; None takes all
    model:    whose sampling to time, or None
    n:        series to draw a round
    rounds:   in each of which all rivals take their turn
    threads:  of the CPU; None takes as many as torch does
    returns:  "machine", "ceilings" and "ops" of `time_ops`, "sampling" of `time_engines`
    raises:   ArgumentError, ArgumentTypeError
    """
    ops = list(dispatch.TABLE) if ops is None else ops
    for op in ops:
        one_of("op", op, tuple(dispatch.TABLE))
    before = torch.get_num_threads()
    threads = before if threads is None else arguments.count(threads, "threads")
    arguments.count(n, "n"), arguments.count(rounds, "rounds")
    torch.set_num_threads(threads)
    try:
        found = {"machine": measure.machine()} | time_ops(ops, rounds)
        if model is not None:
            found["sampling"] = time_engines(model, n, rounds)
    finally:
        torch.set_num_threads(before)
    return found


def time_ops(names: list[str], rounds: int) -> dict[str, Any]:
    """Time every backend of some ops at their benchmark shapes.

    names:    of ops
    rounds:   in each of which all backends take their turn
    returns:  "ceilings" of every device, and "ops": a row for each backend, shape and direction,
              or with `why` a backend does not run, or is not timed
    """
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    top = {device: measure.ceilings(rounds, device) for device in devices}
    cells = [(op, device) for op in names for device in ("cpu", "cuda")]
    rows: list[Row] = []
    for op, device in tqdm(cells, unit="op", disable=None, delay=1):
        able, unable = backends(op, device)
        rows += unable
        if device in devices:
            for shape in dispatch.module(op).BENCH_SHAPES:
                rows += timed(op, device, able, shape, rounds, top[device])
    return {"ceilings": top, "ops": rows}


def dtype_of(op: str) -> torch.dtype:
    """What an op is timed with."""
    dtypes = dispatch.TABLE[op]["torch"]
    return torch.float32 if torch.float32 in dtypes else dtypes[0]


def backends(op: str, device: str) -> tuple[list[str], list[Row]]:
    """Kernels of an op that run on a device, and rows that say why others do not."""
    able, unable = [], []
    for backend in dispatch.PREFERENCE[device]:
        if backend == "torch" or backend not in dispatch.TABLE[op]:
            continue
        why = dispatch.obstacle(op, backend, device, dtype_of(op))
        if why is None and device == "cuda" and not torch.cuda.is_available():
            why = "needs a GPU"
        if why is None:
            able.append(backend)
        else:
            unable.append({"op": op, "device": device, "backend": backend, "why": why})
    return able, unable


def timed(
    op: str, device: str, kernels: list[str], shape: Any, rounds: int, top: dict[str, float]
) -> list[Row]:
    """Rows of one shape: each kernel, and the baseline they took turns with."""
    module, dtype = dispatch.module(op), dtype_of(op)
    inputs = module.make_inputs(shape, device, dtype)
    about = {"op": op, "device": device, "shape": list(shape), "dtype": str(dtype)}
    rows, right = [], []
    for backend in kernels:
        error = measure.mismatch(op, backend, inputs)
        if error <= 1:
            right.append(backend)
        else:
            why = f"is wrong: its error is {error:.3g} times the tolerance"
            rows.append(about | {"backend": backend, "why": why})
    for what, runs in directions(op, right, inputs).items():
        seconds = measure.interleaved(runs, rounds, measure.waiting(device))
        for backend, times in seconds.items():
            row = about | {"backend": backend, "what": what} | measure.summary(times)
            if what == FORWARD:
                row |= measure.rates(op, shape, dtype, row["p50_s"], top)
            row["times_faster_than_baseline"] = measure.ratio(seconds["torch"], times)
            rows.append(row)
    return rows


FORWARD, BOTH = "forward", "forward + backward"


def directions(op: str, kernels: list[str], inputs: Any) -> dict[str, dict[str, Run]]:
    """What takes turns: forward, and forward with backward where kernels have a derivative."""
    module = dispatch.module(op)
    names = ["torch", *kernels]

    def forward(backend: str) -> Run:
        run = dispatch.load(op, backend)
        return lambda: run(*inputs)

    out = {FORWARD: {name: forward(name) for name in names}}
    if module.DIFFERENTIABLE:
        out[BOTH] = {name: both_ways(op, name, inputs) for name in names}
    return out


def both_ways(op: str, backend: str, inputs: Any) -> Run:
    """Forward and backward of an op by one backend."""
    module = dispatch.module(op)
    run = module.baseline
    if backend != "torch":
        run = functools.partial(kernel_with_gradient, module, backend)
    return measure.backward(run, inputs, module.DIFFERENTIABLE)


def kernel_with_gradient(module: ModuleType, backend: str, *inputs: Any) -> Any:
    return module.Gradient.apply(*inputs, backend)


def time_engines(model: Model, n: int, rounds: int) -> list[Row]:
    """Time sampling by each engine: tokens and series, unconditional, the model's own settings.

    model:    on any device
    n:        series a round
    rounds:   in each of which all engines take their turn
    returns:  a row for each engine, with `series_per_s`, or with `why` it does not run
    """
    rows: list[Row] = []
    runs: dict[str, Run] = {}
    for name in sampler.ENGINES:
        if why := sampler.ENGINES[name].obstacle(model.network):
            rows.append({"engine": name, "why": why})
        else:
            runs[name] = drawing(model, name, n)
    device = model.device.type
    seconds = measure.interleaved(runs, rounds, measure.waiting(device))
    for name, times in seconds.items():
        row: Row = {"engine": name, "n": n} | measure.summary(times)
        row["series_per_s"] = n / row["p50_s"]
        if "torch" in seconds:  # which does not draw a vae
            row["times_faster_than_torch"] = measure.ratio(seconds["torch"], times)
        rows.append(row)
    return rows


def drawing(model: Model, engine: str, n: int) -> Run:
    """All of `n` series by one of the engines."""
    prepared = sampler.Sampler(model.network, engine=engine)
    request = Request(np.arange(n), np.full(n, model.config.n_classes))
    return lambda: list(prepared.draw(request, model.config.sampling))


def report(found: dict[str, Any]) -> str:
    """All that was measured, as text: the machine, a table of kernels, one of engines."""
    at = found["machine"]
    lines = [
        f"{at['cpu']}, {at['cores']} cores, threads: {at['threads']}, torch {at['torch']},"
        f" tsgen {at['tsgen']}, {at['date']}"
    ]
    for device, top in found.get("ceilings", {}).items():
        rate = f"{top['gflop_per_s']:.0f} GFLOP/s, a copy {top['gb_per_s']:.0f} GB/s"
        lines.append(f"{device}: torch.mm reaches {rate}")
    if "ops" in found:
        lines += ["", *aligned([OP_HEAD, *map(op_cells, found["ops"])])]
        lines += ["times faster: than backend torch, the op's baseline, of medians in turn"]
    if "sampling" in found:
        lines += ["", *aligned([ENGINE_HEAD, *map(engine_cells, found["sampling"])])]
        lines += ["times faster: than engine torch"]
    return "\n".join(lines)


OP_HEAD = ["op, shape", "backend", "p20 ms", "p50 ms", "p80 ms", "rate", "of ceiling"]
OP_HEAD += ["times faster"]
ENGINE_HEAD = ["engine", "series/s", "p20 s", "p50 s", "p80 s", "times faster"]


def op_cells(row: Row) -> list[str]:
    """One line of the table of kernels."""
    shape = f" {tuple(row['shape'])} {row.get('what', '')}" if "shape" in row else ""
    cells = [f"{row['op']}{shape}", row["backend"]]
    if "why" in row:
        return [*cells, f"{row['device']}: {row['why']}"]
    rate = ""
    if "of_ceiling" in row:
        unit = "gflop_per_s" if "gflop_per_s" in row else "gb_per_s"
        rate = f"{row[unit]:.1f} {UNITS[unit]}"
    share = f"{row['of_ceiling']:.0%}" if rate else ""
    times = [f"{1e3 * row[f'p{p}_s']:.3g}" for p in (20, 50, 80)]
    return [*cells, *times, rate, share, f"{row['times_faster_than_baseline']:.2f}"]


UNITS = {"gflop_per_s": "GFLOP/s", "gb_per_s": "GB/s"}


def engine_cells(row: Row) -> list[str]:
    """One line of the table of engines."""
    if "why" in row:
        return [row["engine"], row["why"]]
    times = [f"{row[f'p{p}_s']:.3g}" for p in (20, 50, 80)]
    ahead = f"{row['times_faster_than_torch']:.2f}" if "times_faster_than_torch" in row else ""
    return [row["engine"], f"{row['series_per_s']:,.0f}", *times, ahead]


def aligned(rows: list[list[str]]) -> list[str]:
    """Lines of columns. A row of fewer cells ends in one that may be wide."""
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
