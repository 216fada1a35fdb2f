"""Every op, on every backend this machine has, agrees with its float64 reference."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tsgen import dispatch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
REQUIRED = os.environ.get("TSGEN_REQUIRE", "").split(",")  # no skip where these do not run
OPS = {name: dispatch.module(name) for name in dispatch.TABLE}
CELLS = [
    pytest.param(name, backend, dtype, shape, id=f"{name}-{backend}-{dtype}-{shape}")
    for name, row in dispatch.TABLE.items()
    for backend, dtypes in row.items()
    for dtype in dtypes
    for shape in OPS[name].TEST_SHAPES
]
COLUMNS = [(name, backend) for name, row in dispatch.TABLE.items() for backend in row]
SMOOTH = [(name, backend) for name, backend in COLUMNS if OPS[name].DIFFERENTIABLE]


def device_for(name: str, backend: str, dtype: torch.dtype) -> str:
    device = "cpu" if backend == "cpu" else DEVICE
    if why := dispatch.obstacle(name, backend, device, dtype):
        if backend in REQUIRED:
            pytest.fail(f"TSGEN_REQUIRE names {backend}, which {why}")
        pytest.skip(f"{backend} {why}")
    return device


def over_tensors(fn: Callable[[Tensor], Tensor], args: Any) -> list[Any]:
    return [fn(arg) if isinstance(arg, Tensor) else arg for arg in args]


def exact(args: Any) -> list[Any]:
    """float64 copies of the same, already rounded, tensors: the oracle adds no error of its own."""
    return over_tensors(lambda t: t.cpu().double() if t.is_floating_point() else t.cpu(), args)


def run(name: str, args: Any, backend: str) -> Any:
    return dispatch.load(name, backend)(*args)


def first_dtype(name: str, backend: str) -> torch.dtype:
    dtypes = dispatch.TABLE[name][backend]
    return torch.float32 if torch.float32 in dtypes else dtypes[0]


def on_cpu(out: Any) -> Any:
    return out.cpu() if isinstance(out, Tensor) else tuple(t.cpu() for t in out)


@pytest.mark.parametrize(("name", "backend", "dtype", "shape"), CELLS)
def test_backend_matches_reference(name, backend, dtype, shape):
    check_values(name, backend, dtype, shape)


def check_values(name: str, backend: str, dtype: torch.dtype, shape: Any) -> None:
    op, device = OPS[name], device_for(name, backend, dtype)
    inputs = op.make_inputs(shape, device, dtype)
    untouched = over_tensors(Tensor.clone, inputs)
    out = on_cpu(run(name, inputs, backend))

    ref_inputs = exact(inputs)
    assert op.error(out, op.reference(*ref_inputs), *ref_inputs) <= op.TOLERANCE[dtype]
    for before, after in zip(untouched, inputs, strict=True):
        if isinstance(before, Tensor):
            assert torch.equal(before, after), "an input was written to"


@pytest.mark.parametrize(("name", "backend"), COLUMNS)
def test_strides_do_not_matter(name, backend):
    op, dtype = OPS[name], first_dtype(name, backend)
    device = device_for(name, backend, dtype)

    def spread(t: Tensor) -> Tensor:
        wide = torch.stack([t, torch.full_like(t, 7 if t.dtype == torch.int64 else torch.nan)], -1)
        return wide[..., 0]

    for shape in op.TEST_SHAPES:
        inputs = op.make_inputs(shape, device, dtype)
        strided = on_cpu(run(name, over_tensors(spread, inputs), backend))
        ref_inputs = exact(inputs)
        error = op.error(strided, op.reference(*ref_inputs), *ref_inputs)
        assert error <= op.TOLERANCE[dtype], shape


def loss_and_gradients(fn: Callable[..., Tensor], args: Any, op: Any) -> list[Tensor]:
    args = list(args)
    wanted = [i for i in op.DIFFERENTIABLE if args[i] is not None]
    for i in wanted:
        args[i] = args[i].detach().clone().requires_grad_()
    out = fn(*args)
    loss = torch.zeros((), dtype=torch.float64)
    for part in (out,) if isinstance(out, Tensor) else out:
        weight = torch.linspace(-1, 2, max(1, part.numel()), dtype=torch.float64)[: part.numel()]
        loss = loss + (part * weight.view(part.shape).to(part)).sum().cpu()
    loss.backward()
    return [args[i].grad for i in wanted]


def calling(name: str, backend: str | None, like: Tensor) -> Callable[..., Any]:
    """The op as its public function calls it."""
    baseline, gradient = OPS[name].baseline, getattr(OPS[name], "Gradient", None)

    def fn(*args: Any) -> Any:
        return dispatch.call(name, baseline, *args, backend=backend, like=like, gradient=gradient)

    return fn


@pytest.mark.parametrize(("name", "backend"), SMOOTH)
def test_gradients_match_reference(name, backend):
    check_gradients(name, backend)


def check_gradients(name: str, backend: str) -> None:
    op, dtype = OPS[name], first_dtype(name, backend)
    device = device_for(name, backend, dtype)
    for shape in op.TEST_SHAPES:
        inputs = op.make_inputs(shape, device, dtype)
        if not next(t for t in inputs if isinstance(t, Tensor)).numel():
            continue
        grads = loss_and_gradients(calling(name, backend, inputs[0]), inputs, op)
        ref_grads = loss_and_gradients(op.reference, exact(inputs), op)
        for grad, ref in zip(grads, ref_grads, strict=True):
            # a gradient near 0 is a difference of terms near 1
            error = (grad.cpu().double() - ref).abs().amax() / ref.abs().amax().clamp_min(0.1)
            assert error <= 10 * op.TOLERANCE[dtype], (shape, grad.shape)


@pytest.mark.parametrize("name", [name for name, row in dispatch.TABLE.items() if "cpu" in row])
def test_instruction_sets_match_reference(name, isa):
    for shape in OPS[name].TEST_SHAPES:
        check_values(name, "cpu", first_dtype(name, "cpu"), shape)
    if OPS[name].DIFFERENTIABLE:
        check_gradients(name, "cpu")


@pytest.mark.parametrize(("name", "backend"), SMOOTH)
def test_gradcheck(name, backend):
    if torch.float64 not in dispatch.TABLE[name][backend]:
        pytest.skip(f"{backend} has no float64")
    op, device = OPS[name], device_for(name, backend, torch.float64)
    inputs = op.make_inputs(op.TEST_SHAPES[2], device, torch.float64)
    args = [
        arg.detach().clone().requires_grad_() if i in op.DIFFERENTIABLE and arg is not None else arg
        for i, arg in enumerate(inputs)
    ]
    assert torch.autograd.gradcheck(dispatch.load(name, backend), args)


@pytest.mark.parametrize("name", dispatch.TABLE)
def test_opcheck(name):
    op = OPS[name]
    for shape in (op.TEST_SHAPES[2], op.TEST_SHAPES[-1]):
        inputs = op.make_inputs(shape, DEVICE, first_dtype(name, "torch"))
        torch.library.opcheck(getattr(torch.ops.tsgen, name).default, tuple(inputs))


@pytest.mark.parametrize("name", dispatch.TABLE)
def test_compiles_into_one_graph(name):
    torch.compiler.reset()  # one function below for all ops: it would be compiled too often
    op = OPS[name]
    inputs = op.make_inputs(op.TEST_SHAPES[-1], DEVICE, first_dtype(name, "torch"))
    like = next(t for t in inputs if isinstance(t, Tensor))
    compiled = torch.compile(calling(name, None, like), fullgraph=True)
    if op.DIFFERENTIABLE:
        grads = loss_and_gradients(compiled, inputs, op)
        for grad, ref in zip(
            grads, loss_and_gradients(op.reference, exact(inputs), op), strict=True
        ):
            error = (grad.cpu().double() - ref).abs().amax() / ref.abs().amax().clamp_min(0.1)
            assert error <= 10 * op.TOLERANCE[first_dtype(name, "torch")], grad.shape
    out = on_cpu(compiled(*inputs))
    ref_inputs = exact(inputs)
    tolerance = op.TOLERANCE[first_dtype(name, "torch")]
    assert op.error(out, op.reference(*ref_inputs), *ref_inputs) <= tolerance
