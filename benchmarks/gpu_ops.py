"""An op's kernels on a GPU beside its baseline and rivals, forward and backward.

What has not matched the baseline in float64 is not timed. Of large inputs whose rows do not depend
on each other, the first and last rows are compared.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import gpu_rivals
import torch
from gpu_timing import Row, in_turn, reason
from torch import Tensor

from tsgen import dispatch
from tsgen.measure import Run, backward, exact, judged

FORWARD, BOTH = "forward", "forward + backward"
# op: its inputs that have a row for each series, vector or token; rows do not depend on others
ROWS = {
    "stft": (0,),
    "istft": (0,),
    "nearest_code": (0,),
    "attention": (0, 1, 2, 6),
    "sample_code": (0, 1),
    "norm_linear": (0,),
    "linear_norm": (0, 5),
    "feed_forward": (0,),
    "transformer_block": (0,),
    "keep_confident": (0, 1),
    "snake": (0,),
    "philox": (0,),
    "draw_uniforms": (0, 1, 2),
    "remask_tokens": (0, 1, 2, 3, 4, 5),
}
DRAWN = 2**25  # numbers that are drawn at most: the rows are repeated beyond
COMPARED = 2**22  # numbers, of each input
MOST_SETS = 64


class Place(NamedTuple):
    """Where and how to measure."""

    device: str
    seconds: float  # for one direction of one case
    compiler: str = "inductor"  # of torch.compile; "" leaves it out
    small: bool = False  # one small shape an op


class Case(NamedTuple):
    """An op at a shape in a dtype."""

    op: str
    shape: Any
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.op} {self.shape} {str(self.dtype).removeprefix('torch.')}"


def cases(ops: list[str], place: Place) -> list[Case]:
    """The first shape of every op, then the second of each, and so on."""
    found = []
    for op in ops:
        row = dispatch.TABLE[op]
        taken = {dtype for backend in kernels_of(op, place.device) for dtype in row[backend]}
        dtypes = [t for t in (torch.bfloat16, torch.float32, torch.int64) if t in taken]
        for rank, shape in enumerate(shapes_of(op, place)):
            found += [(rank, Case(op, shape, t)) for t in dtypes]
    return [case for _, case in sorted(found, key=lambda ranked: ranked[0])]


def shapes_of(op: str, place: Place) -> list[Any]:
    """Shapes that fill the chip, the most important first; one tiny one to try things out."""
    module = dispatch.module(op)
    if place.small:
        return module.TEST_SHAPES[4:5]  # type: ignore[no-any-return]
    return getattr(module, "GPU_SHAPES", module.BENCH_SHAPES)  # type: ignore[no-any-return]


def kernels_of(op: str, device: str) -> list[str]:
    """The kernels of its row in the table that are for this device."""
    wanted = ("triton", *dispatch.PREFERENCE[device])
    return [name for name in dispatch.TABLE[op] if name != "torch" and name in wanted]


def measured(case: Case, place: Place, top: Row) -> Row:
    """All that is to be known of a case; see docs/benchmarks.md."""
    op, shape, dtype = case
    if shape != shapes_of(op, place)[0]:
        place = place._replace(compiler="")  # which takes longer than all the rest
    module = dispatch.module(op)
    n_bytes, flops = module.bytes_moved(shape, dtype), 0
    if hasattr(module, "flops"):
        flops = module.flops(shape)
    floors = {"bytes": n_bytes / top["gb_per_s"] / 1e6}
    if flops:
        floors["flops"] = flops / top["gflop_per_s"][str(dtype).removeprefix("torch.")] / 1e6
    bound = max(floors, key=lambda name: floors[name])
    inputs = inputs_of(op, shape, place.device, dtype)
    sets = [inputs, *(copied(inputs) for _ in range(n_sets(n_bytes, place) - 1))]
    row = {
        "op": op,
        "shape": list(shape),
        "dtype": str(dtype),
        "bytes": n_bytes,
        "flops": flops,
        "input_sets": len(sets),
        "floor_ms": floors[bound],
        "bound_by": bound,
        FORWARD: forward(op, sets, place),
    }
    for found in row[FORWARD].values():
        if "p50_ms" in found:
            found |= rates(row, found["p50_ms"])
    if module.DIFFERENTIABLE:
        row[BOTH] = both_ways(op, sets, place)
    return row


def rates(row: Row, ms: float) -> Row:
    out = {"gb_per_s": row["bytes"] / ms / 1e6, "of_floor": row["floor_ms"] / ms}
    return out | ({"gflop_per_s": row["flops"] / ms / 1e6} if row["flops"] else {})


def n_sets(n_bytes: int, place: Place) -> int:
    """Sets of inputs, so that none is still in the cache when its turn comes."""
    if place.device != "cuda":
        return 2
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(1, min(MOST_SETS, math.ceil(2 * cache / n_bytes)))


def inputs_of(op: str, shape: Any, device: str, dtype: torch.dtype) -> list[Any]:
    """The op's inputs; of many rows only some are drawn, and repeated."""
    module, n = dispatch.module(op), shape[0]
    if op not in ROWS or not n:
        return list(module.make_inputs(shape, device, dtype))
    one = module.make_inputs((1, *shape[1:]), "cpu", dtype)
    most = max(1, DRAWN // max(one[i].numel() for i in ROWS[op] if one[i] is not None))
    drawn = next(rows for rows in range(min(n, most), 0, -1) if n % rows == 0)
    inputs = module.make_inputs((drawn, *shape[1:]), device, dtype)
    return inputs if drawn == n else copied(inputs, ROWS[op], n // drawn)


def copied(inputs: Any, which: tuple[int, ...] | None = None, times: int = 1) -> list[Any]:
    """Inputs in new memory, laid out as the old; rows of those named by `which` so many times."""
    memory: dict[int, Tensor] = {}

    def copy(t: Tensor, times: int) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in memory:  # views of one memory stay that
            whole = torch.empty(0, dtype=t.dtype, device=t.device).set_(storage)
            memory[storage.data_ptr()] = whole.repeat(times)
        size = (times * t.shape[0], *t.shape[1:])
        return memory[storage.data_ptr()].as_strided(size, t.stride(), t.storage_offset())

    return [
        copy(t, times if which is None or i in which else 1) if isinstance(t, Tensor) else t
        for i, t in enumerate(inputs)
    ]


def n_compared(op: str, inputs: Any) -> int | None:
    """Rows to compare, or None where every number depends on all rows."""
    if op not in ROWS or (op == "nearest_code" and inputs[2]):
        return None
    longest = max(inputs[i][:1].numel() for i in ROWS[op] if inputs[i] is not None)
    return max(2, COMPARED // max(1, longest))


def ends(t: Tensor, n: int) -> Tensor:
    """The first and the last rows: an offset that overflows shows in the last."""
    return t if len(t) <= n else torch.cat([t[: n // 2], t[n // 2 - n :]])


def few(op: str, inputs: Any) -> list[Any]:
    """Inputs of the rows to compare."""
    n = n_compared(op, inputs)
    if n is None:
        return list(inputs)
    which = [i for i in ROWS[op] if inputs[i] is not None]
    return [ends(t, n) if i in which else t for i, t in enumerate(inputs)]


def few_of(op: str, inputs: Any, out: Any) -> Any:
    """The same of a result."""
    n = n_compared(op, inputs)
    if n is None:
        return out
    return ends(out, n) if isinstance(out, Tensor) else [ends(t, n) for t in out]


def refused(check: Callable[[], float], device: str) -> Row | None:
    """Why something must not be timed, or None."""
    try:
        error = check()
    except Exception as problem:
        return {"why": reason(problem, device)}
    if error <= 1:
        return None
    return {"why": f"is wrong: its error is {error:.3g} times what is allowed"}


Rivals = dict[str, Callable[[], list[Run]]]


def timed(checks: dict[str, Callable[[], float]], runs: Rivals, place: Place) -> Row:
    """Rows of those whose check they pass, and why the others do not."""
    wrong = {name: refused(check, place.device) for name, check in checks.items()}
    right = {name: make for name, make in runs.items() if wrong.get(name) is None}
    rows = in_turn(right, place.device, place.seconds)
    return {name: rows.get(name) or wrong[name] for name in runs}


def forward(op: str, sets: list[Any], place: Place) -> Row:
    inputs = sets[0]
    rivals = [gpu_rivals.rivals(op, each, place.compiler) for each in sets]
    judges = gpu_rivals.rivals(op, few(op, inputs), place.compiler)

    def kernel_off(backend: str) -> float:
        out = able(op, backend, inputs)(*inputs)
        return judged(op, few_of(op, inputs, out), few(op, inputs))

    def rival_off(name: str) -> float:
        return judges[name].wrong(few_of(op, inputs, rivals[0][name].run()))

    def kernel_runs(backend: str) -> list[Run]:
        return [functools.partial(dispatch.load(op, backend), *each) for each in sets]

    def rival_runs(name: str) -> list[Run]:
        return [each[name].run for each in rivals]

    names = (*kernels_of(op, place.device), "torch")
    checks = {name: functools.partial(kernel_off, name) for name in names}
    checks |= {name: functools.partial(rival_off, name) for name in judges}
    runs = {name: functools.partial(kernel_runs, name) for name in names}
    runs |= {name: functools.partial(rival_runs, name) for name in judges}
    return timed(checks, runs, place)


def able(op: str, backend: str, inputs: Any) -> Callable[..., Any]:
    """A cell of the table. Raises RuntimeError where it cannot run."""
    like = next(t for t in inputs if isinstance(t, Tensor))
    if why := dispatch.obstacle(op, backend, like.device.type, like.dtype):
        raise RuntimeError(f"backend {backend} {why}")
    return dispatch.load(op, backend)


def both_ways(op: str, sets: list[Any], place: Place) -> Row:
    module, inputs = dispatch.module(op), sets[0]
    wanted = tuple(i for i in module.DIFFERENTIABLE if inputs[i] is not None)
    rivals = [gpu_rivals.both_ways(op, each, place.compiler) for each in sets]

    def differentiable(backend: str) -> Callable[..., Any]:
        run = able(op, backend, inputs)
        return run if backend == "torch" else lambda *args: module.Gradient.apply(*args, backend)

    def kernel_off(backend: str) -> float:
        return gradients_off(op, differentiable(backend), inputs, wanted)

    def kernel_runs(backend: str) -> list[Run]:
        return [backward(differentiable(backend), each, wanted) for each in sets]

    def rival_runs(name: str) -> list[Run]:
        return [each[name]() for each in rivals]

    names = (*kernels_of(op, place.device), "torch")
    checks = {name: functools.partial(kernel_off, name) for name in names}
    runs = {name: functools.partial(kernel_runs, name) for name in names}
    runs |= {name: functools.partial(rival_runs, name) for name in rivals[0]}
    return timed(checks, runs, place)


def gradients_off(op: str, run: Callable[..., Any], inputs: Any, wanted: tuple[int, ...]) -> float:
    """Error of the gradients, of what tests/test_ops.py allows.

    Where only some rows are compared, those of what all rows share, such as a bias, are left to it.
    """
    module = dispatch.module(op)
    grads: Any = backward(run, inputs, wanted)()
    refs: Any = backward(module.baseline, exact(few(op, inputs)), wanted)()
    allowed = 10 * module.TOLERANCE[inputs[wanted[0]].dtype]
    errors = [
        (few_of(op, inputs, grad).double() - ref).abs().amax() / ref.abs().amax().clamp_min(0.1)
        for i, grad, ref in zip(wanted, grads, refs, strict=True)
        if n_compared(op, inputs) is None or i in ROWS[op]
    ]
    return float(torch.stack(errors).amax() / allowed)  # NaN stays NaN
