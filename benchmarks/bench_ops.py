"""Time every op on every backend this machine has, at its benchmark shapes.

    python -m pytest benchmarks [-k nearest_code] [--benchmark-json=FILE]

A backend whose answer is wrong is never timed.
"""

import pytest
import torch

from tsgen import dispatch, measure

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CELLS = [
    pytest.param(op, backend, shape, id=f"{op}-{backend}-{shape}")
    for op, row in dispatch.TABLE.items()
    for backend in row
    for shape in dispatch.module(op).BENCH_SHAPES
]


@pytest.mark.parametrize(("op", "backend", "shape"), CELLS)
def bench_op(benchmark, op, backend, shape):
    module, dtypes = dispatch.module(op), dispatch.TABLE[op][backend]
    dtype = torch.float32 if torch.float32 in dtypes else dtypes[0]
    device = "cpu" if backend == "cpu" else DEVICE
    if why := dispatch.obstacle(op, backend, device, dtype):
        pytest.skip(f"{backend} {why}")
    inputs = module.make_inputs(shape, device, dtype)
    run = dispatch.load(op, backend)
    assert measure.mismatch(op, backend, inputs) <= 1

    def timed() -> None:
        run(*inputs)
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.extra_info["bytes"] = module.bytes_moved(shape, dtype)
    benchmark.pedantic(timed, rounds=15, warmup_rounds=3)
