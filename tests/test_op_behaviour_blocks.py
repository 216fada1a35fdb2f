"""As test_op_behaviour.py, for the fused parts of a transformer's block."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_ops import OPS, device_for
from torch import Tensor

from tsgen import dispatch, ops

F32, F16 = torch.float32, torch.float16
SHAPES: dict[str, list[Any]] = {  # more rows than a tile has, and one tile of all features or more
    "norm_linear": [(150, 33, 70, None, True, False), (150, 33, 70, None, False, True)],
    "linear_norm": [(150, 33, 40, "same", False), (150, 33, 40, "none", True)],
    "feed_forward": [(150, 33, 15), (150, 33, 70)],
}
CASES = [
    pytest.param(name, backend, shape, id=f"{name}-{backend}-{shape}")
    for name, shapes in SHAPES.items()
    for backend in dispatch.TABLE[name]
    for shape in shapes
]
KERNELS = [case for case in CASES if case.values[1] != "torch"]  # whose sums depend on the batch


def run_on(name: str, backend: str, inputs: Any, rows: slice = slice(None)) -> Tensor:
    """The op on some rows of x, and of the residual that linear_norm may have."""
    args = list(inputs)
    args[0] = args[0][rows]
    if name == "linear_norm" and args[5] is not None:
        args[5] = args[5][rows]
    return dispatch.load(name, backend)(*args).cpu()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "backend", "shape"), KERNELS)
def test_bits_of_a_row_do_not_depend_on_other_rows(name, backend, shape):
    device = device_for(name, backend, F32)
    inputs = OPS[name].make_inputs(shape, device, F32)
    whole = run_on(name, backend, inputs)
    for rows in (slice(0, 1), slice(31, 32), slice(149, 150), slice(20, 75)):
        assert torch.equal(run_on(name, backend, inputs, rows), whole[rows])


@pytest.mark.parametrize("backend", [b for b in dispatch.TABLE["norm_linear"] if b != "torch"])
def test_bits_do_not_depend_on_how_columns_are_shared(backend, monkeypatch):
    device = device_for("norm_linear", backend, F32)
    kernels = pytest.importorskip("tsgen.kernels.norm_linear")
    inputs = OPS["norm_linear"].make_inputs((70, 20, 400, None, True, False), device, F32)
    outs = []
    for programs in (1, 10, 256):
        monkeypatch.setattr(kernels, "PROGRAMS", programs)
        outs.append(run_on("norm_linear", backend, inputs))
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("backend", [b for b in dispatch.TABLE["norm_linear"] if b != "torch"])
def test_bits_of_taken_rows_are_those_of_all(backend):
    device = device_for("norm_linear", backend, F32)
    x, *others = OPS["norm_linear"].make_inputs((70, 20, 40, 50, True, True), device, F32)
    whole = dispatch.load("norm_linear", backend)(x, *others[:4], None, 1e-5)
    taken = dispatch.load("norm_linear", backend)(x, *others)
    assert torch.equal(taken, whole[others[4]])


@pytest.mark.parametrize(("name", "backend", "shape"), CASES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.filterwarnings("ignore:invalid:RuntimeWarning")  # of Triton's interpreter
def test_what_is_not_finite_stays_in_its_row(name, backend, shape, bad):
    device = device_for(name, backend, F32)
    inputs = list(OPS[name].make_inputs(shape, device, F32))
    clean = run_on(name, backend, inputs)
    inputs[0] = inputs[0].clone()
    inputs[0][[3, 40], 5] = bad
    out = run_on(name, backend, inputs)
    others = torch.ones(150, dtype=torch.bool)
    others[[3, 40]] = False
    assert not out[~others].isfinite().any()
    assert torch.equal(out[others], clean[others])


TILES_OF_HALVES = [
    ("norm_linear", (130, 40, 70, None, True, True)),
    ("norm_linear", (3, 600, 70, None, True, False)),  # in pieces
    ("linear_norm", (130, 70, 40, "taken", True)),
    ("linear_norm", (18, 40, 600, "same", False)),
    ("feed_forward", (130, 40, 21)),
    ("feed_forward", (20, 200, 85)),  # several tiles of features
    ("feed_forward", (3, 600, 40)),  # in pieces
]


@pytest.mark.parametrize(("name", "shape"), TILES_OF_HALVES, ids=str)
def test_triton_tiles_of_halves(name, shape):
    """Not those of float32. float16 is what the interpreter can do of both halves."""
    op, device = OPS[name], device_for(name, "triton", F32)
    inputs = op.make_inputs(shape, device, F16)
    exact = [t.double() if isinstance(t, Tensor) and t.dtype != torch.int64 else t for t in inputs]
    out = run_on(name, "triton", inputs)
    assert out.dtype == F16
    assert op.error(out, op.reference(*exact).cpu()) <= op.TOLERANCE[F16]


@pytest.mark.parametrize("backend", dispatch.TABLE["feed_forward"])
@pytest.mark.parametrize("dtype", [F32, F16])
@pytest.mark.parametrize("n_features", [21, 85, 341])
def test_padding_of_a_weight_means_nothing(backend, dtype, n_features):
    device = device_for("feed_forward", backend, F32)
    inputs = list(OPS["feed_forward"].make_inputs((9, 40, n_features), device, dtype))
    packed = run_on("feed_forward", backend, inputs)
    for extra in (1, -n_features % 16, 16):
        wide = torch.full((40, n_features + extra), torch.nan, device=device, dtype=dtype)
        wide[:, :n_features] = inputs[6]
        padded = [*inputs[:6], wide[:, :n_features], inputs[7]]
        out = run_on("feed_forward", backend, padded)
        torch.testing.assert_close(out, packed, rtol=0, atol=0 if backend != "torch" else 1e-2)


@pytest.mark.parametrize("backend", dispatch.TABLE["feed_forward"])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e3])
def test_statistics_of_features_far_from_zero(backend, size):
    """Tiles of features are merged: their means may be large beside what is left."""
    device = device_for("feed_forward", backend, F32)
    x, gain, shift, up, *rest = OPS["feed_forward"].make_inputs((17, 24, 100), device, F32)
    shift = shift + 3  # all features of a row are then near one number
    up = (0.01 * up + 1) * size
    inputs = (x, gain, shift, up, *rest)
    ref = OPS["feed_forward"].reference(
        *(t.double() if isinstance(t, Tensor) else t for t in inputs)
    )
    error = OPS["feed_forward"].error(run_on("feed_forward", backend, inputs), ref.cpu())
    assert error <= 5e-4  # their mean is 1100 times their deviation: 4 eps of it


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of Triton's interpreter
def test_gelu_of_the_kernels():
    device = device_for("linear_norm", "triton", F32)
    x = torch.cat([torch.linspace(-12, 12, 4000), torch.tensor([-1e30, 1e30, torch.nan])])
    out = torch.empty_like(x, device=device)
    gelu_kernel[(1,)](x.to(device), out, N=len(x), BLOCK=4096)
    ref = torch.nn.functional.gelu(x.double())
    error = (out.cpu().double() - ref).abs() / x.abs().clamp_min(1)
    assert error[:-1].amax() <= 1.2e-7
    assert out[-1].isnan()


if importlib.util.find_spec("triton"):
    import triton
    import triton.language as tl

    from tsgen.kernels._rows import gelu

    @triton.jit
    def gelu_kernel(x, out, N: tl.constexpr, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        tl.store(out + i, gelu(tl.load(x + i, mask=i < N, other=0.0)), mask=i < N)


BLOCK = (7, 33, 32, 2, 16, 21)  # 7 sequences: two in a thread block, but for the last
BLOCK_KERNELS = [b for b in dispatch.TABLE["transformer_block"] if b != "torch"]


@pytest.mark.parametrize("backend", BLOCK_KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, F16])
class TestWholeLayers:
    def run(self, backend: str, dtype: torch.dtype, change: Any = None) -> Tensor:
        device = device_for("transformer_block", backend, dtype)
        args = list(OPS["transformer_block"].make_inputs(BLOCK, device, dtype))
        if change is not None:
            args[0] = change(args[0].clone())
        return dispatch.load("transformer_block", backend)(*args).cpu()  # type: ignore[no-any-return]

    def test_bits_of_a_sequence_do_not_depend_on_others(self, backend, dtype):
        whole = self.run(backend, dtype)
        for some in (slice(0, 1), slice(3, 4), slice(6, 7), slice(1, 6)):
            assert torch.equal(self.run(backend, dtype, lambda x, s=some: x[s]), whole[some])

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_what_is_not_finite_stays_in_its_sequence(self, backend, dtype, bad):
        def spoilt(x: Tensor) -> Tensor:
            x[[1, 5], 7, 3] = bad
            return x

        clean, out = self.run(backend, dtype), self.run(backend, dtype, spoilt)
        others = [0, 2, 3, 4, 6]
        assert torch.equal(out[others], clean[others])
        assert out[[1, 5]].isnan().any(-1).all()

    def test_says_which_sizes_it_cannot_take(self, backend, dtype):
        module, run = OPS["transformer_block"], dispatch.load
        for shape, message in (
            ((1, 3, 24, 1, 16, 5), "a width of 24 and heads of 16"),
            ((1, 3, 32, 1, 8, 5), "a width of 32 and heads of 8"),
            ((1, 144, 16, 1, 16, 5), "144 tokens of width 16"),
            ((1, 65, 512, 1, 16, 5), "65 tokens of width 512"),
        ):
            device = device_for("transformer_block", backend, dtype)
            inputs = module.make_inputs(shape, device, dtype)
            with pytest.raises(ValueError, match=message):
                run("transformer_block", backend)(*inputs)


def layer(**changed: Tensor) -> ops.LayerWeights:
    """Weights of width 4, one head of 2, 3 features."""
    sizes = [(4,), (4,), (6, 4), (2, 1, 2), (2,), (2,), (4, 2), (4,), (4,), (4,), (4,), (3, 4)]
    tensors = [of(*size) for size in [*sizes, (3,), (3,), (4, 3)]]
    return ops.LayerWeights(*tensors)._replace(**changed)


def of(*sizes: int, dtype: torch.dtype = F32) -> Tensor:
    return torch.ones(sizes, dtype=dtype)


I64 = torch.int64
WRONG: list[tuple[Callable[[], Tensor], str]] = [
    (lambda: ops.norm_linear(of(2, 3), of(4, 5)), r"weight: wanted \(4, 3\), got \(4, 5\)"),
    (lambda: ops.norm_linear(of(2, 3, 1), of(4, 3)), "x: wanted two dims"),
    (lambda: ops.norm_linear(of(2, 0), of(4, 0)), "x: wanted two dims, the last at least 1"),
    (lambda: ops.norm_linear(of(2, 3), of(4, 3, dtype=F16)), "x's torch.float32, got torch.float1"),
    (lambda: ops.norm_linear(of(2, 3), of(4, 3), of(3)), "both or neither, got one"),
    (lambda: ops.norm_linear(of(2, 3), of(4, 3), of(3), of(4)), r"shift: wanted \(3,\) of floats"),
    (lambda: ops.norm_linear(of(2, 3), of(4, 3), bias_E=of(3)), r"bias: wanted \(4,\) of floats"),
    (lambda: ops.norm_linear(of(2, 3), of(4, 3), rows_M=of(2)), "rows: wanted one dim of torch.in"),
    (lambda: ops.norm_linear(of(2, 3), of(4, 3), eps=0), "eps: wanted a finite number above 0"),
    (lambda: ops.linear_norm(of(2, 3), of(4, 4), of(4), of(4)), r"weight: wanted \(4, 3\)"),
    (
        lambda: ops.linear_norm(of(2, 3), of(1025, 3), of(1025), of(1025)),
        "to 1024 rows, got 1025",
    ),
    (lambda: ops.linear_norm(of(2, 3), of(0, 3), of(0), of(0)), "1 to 1024 rows, got 0"),
    (lambda: ops.linear_norm(of(2, 3), of(4, 3), of(3), of(4)), r"gain: wanted \(4,\) of floats"),
    (
        lambda: ops.linear_norm(of(2, 3), of(4, 3), of(4), of(4), residual_SD=of(3, 4)),
        r"residual: wanted \(2, 4\) torch.float32, got \(3, 4\)",
    ),
    (
        lambda: ops.linear_norm(of(2, 3), of(4, 3), of(4), of(4), rows_R=of(2, dtype=I64)),
        r"rows: wanted \(2,\), beside a residual",
    ),
    (
        lambda: ops.feed_forward(of(2, 3), of(3), of(3), of(5, 4), of(5), of(5), of(3, 5)),
        r"up: wanted \(5, 3\), got \(5, 4\)",
    ),
    (
        lambda: ops.feed_forward(of(2, 3), of(3), of(3), of(5, 3), of(5), of(5), of(5, 3)),
        r"down: wanted \(3, 5\) torch.float32, got \(5, 3\)",
    ),
    (
        lambda: ops.feed_forward(of(2, 3), of(3), of(3), of(5, 3), of(5), of(3), of(3, 5)),
        r"mid_shift: wanted \(5,\) of floats, got \(3,\)",
    ),
    (
        lambda: ops.feed_forward(
            of(2, 1025), of(1025), of(1025), of(5, 1025), of(5), of(5), of(1025, 5)
        ),
        "up: wanted at least one row, of 1 to 1024 numbers",
    ),
    (lambda: ops.transformer_block(of(2, 4), layer()), r"x: wanted \(S, T, D\), T and D at least"),
    (lambda: ops.transformer_block(of(1, 0, 4), layer()), r"x: wanted \(S, T, D\), T and D at lea"),
    (
        lambda: ops.transformer_block(of(1, 2, 4), layer(null_kv_2HC=of(1, 1, 2))),
        r"null_kv: wanted \(2, H, Dh\), got \(1, 1, 2\)",
    ),
    (
        lambda: ops.transformer_block(of(1, 2, 4), layer(qkv_ED=of(4, 4))),
        r"qkv: wanted \(6, 4\) torch.float32, got \(4, 4\)",
    ),
    (
        lambda: ops.transformer_block(of(1, 2, 4), layer(down_DF=of(4, 3, dtype=F16))),
        r"down: wanted \(4, 3\) torch.float32, got \(4, 3\) torch.float16",
    ),
    (
        lambda: ops.transformer_block(of(1, 2, 4), layer(q_scale_C=of(3))),
        r"q_scale: wanted \(2,\) of floats",
    ),
]


@pytest.mark.parametrize(("fn", "message"), WRONG)
def test_says_what_was_wanted_and_what_came(fn, message):
    with pytest.raises(ValueError, match=message):
        fn()
