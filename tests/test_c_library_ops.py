"""The C ABI's ops: the bits of tsgen._C, backward too, and a status for what does not fit."""

import types

import numpy as np
import pytest
import torch
from c_library import Failed, call, declared
from op_behaviour import assert_same
from test_ops import OPS, calling, loss_and_gradients

from tsgen import dispatch, native

NATIVE = [name for name, row in dispatch.TABLE.items() if "cpu" in row]

if why := dispatch.obstacle("snake", "cpu", "cpu", torch.float32):
    pytest.skip(f"backend cpu {why}", allow_module_level=True)


def functions(called=None):
    """What stands in for tsgen._C.cpu: its functions take addresses as integers, 0 for none."""

    def function(name):
        def run(*arguments):
            called.add(name)
            call(name, *arguments)

        return run

    names = [name.removeprefix("tsgen_") for name in declared()]
    return types.SimpleNamespace(**{name: function(name) for name in names})


@pytest.fixture
def in_c(monkeypatch):
    """Call this to send every op of backend "cpu" to the library; gives the names called since."""

    def switch():
        called = set()
        monkeypatch.setattr(native, "kernels", lambda backend: functions(called))
        dispatch.load.cache_clear()
        return called

    yield switch
    dispatch.load.cache_clear()


def all_of(name, shape):
    """An op's outputs, and gradients where it has them."""
    op = OPS[name]
    dtype = torch.int64 if name == "philox" else torch.float32
    inputs = op.make_inputs(shape, "cpu", dtype)
    out = dispatch.load(name, "cpu")(*inputs)
    outs = [out] if isinstance(out, torch.Tensor) else list(out)
    if op.DIFFERENTIABLE:
        outs += loss_and_gradients(calling(name, "cpu", inputs[0]), inputs, op)
    return [out.nan_to_num(7e30) if out.is_floating_point() else out for out in outs]


@pytest.mark.parametrize("name", NATIVE)
def test_gives_the_bits_of_the_extension(name, in_c):
    wanted = [all_of(name, shape) for shape in OPS[name].TEST_SHAPES]
    called = in_c()
    for shape, outs in zip(OPS[name].TEST_SHAPES, wanted, strict=True):
        assert_same(all_of(name, shape), outs)
    backward = {f"{name}_backward"} & set(vars(functions()))
    assert called == {name} | backward


def test_every_op_and_every_backward_is_there():
    names = [name.removesuffix("_backward") for name in vars(functions())]
    assert set(NATIVE) <= set(names)
    extension = native.kernels("cpu")
    backward = {name for name in dir(extension) if name.endswith("_backward")}
    assert backward == {name for name in vars(functions()) if name.endswith("_backward")}


F, I, D = (np.zeros(64, dtype=kind) for kind in (np.float32, np.int64, np.float64))
TWICE = np.array([1, 1])
MANY = 2**57

WRONG = {
    "L: wanted a whole number from 3": ("stft", F, F, F, 1, 2, 4, 1, 0, 3, 1, 1),
    "T: wanted a whole number from 9 to 9, got 8": ("stft", F, F, F, 1, 8, 4, 1, 0, 3, 8, 1),
    "F: wanted a whole number from 1 to 2": ("stft_backward", F, F, F, 1, 8, 4, 1, 1, 3, 9, 1),
    "hop: wanted a whole number from 1": ("istft", F, F, F, 1, 8, 4, 0, 0, 3, 9, 1),
    "L: wanted a whole number from 1 to 6, got 7": ("istft", F, F, F, 1, 7, 4, 1, 0, 3, 5, 1),
    "x: wanted an address": ("istft_backward", None, F, F, 1, 6, 4, 1, 0, 3, 5, 1),
    "N: wanted a whole number from 0 to": ("nearest_code", F, F, I, F, None, None, MANY, 1, 1, 1),
    "K: wanted a whole number from 1": ("nearest_code", F, F, I, F, None, None, 1, 0, 1, 1),
    "counts, sums: wanted all or none": ("nearest_code", F, F, I, F, I, None, 1, 1, 1, 1),
    "gain, shift: wanted all or none": ("snake", F, F, F, None, F, 1, 1, 1, 1),
    "gain, shift, grad_gain, grad_shift: wanted all": (
        *("snake_backward", F, F, F, F, F, F, F, F, None, 1, 1, 1, 1),
    ),
    "kind: wanted a whole number from 0 to 3": (
        *("separable_conv", F, None, None, None, F, F, F, F, F, None, None),
        *(1, 1, 1, 1, 1, 1, 4, 1),
    ),
    "taps, tap_bias: wanted none": (
        *("separable_conv", F, None, None, None, F, F, F, F, F, None, None),
        *(1, 1, 1, 1, 1, 1, 0, 1),
    ),
    "kernel_rows: wanted 1 or 3, got 2": (
        *("separable_conv", F, None, None, None, F, F, F, F, F, None, None),
        *(1, 1, 1, 1, 1, 2, 1, 1),
    ),
    "taps, grad_taps, grad_tap_bias: wanted all": (
        *("separable_conv_backward", F, None, None, None, None, F, None, None, None, F, F, F, F),
        *(F, None, None, None, None, None, F, F, 1, 1, 1, 1, 1, 1, 1, 1),
    ),
    "q_scale, k_scale: wanted all or none": (
        *("attention", F, F, F, None, F, None, None, F, *[1] * 9, 1, 1, 1, 1, 1, 1),
    ),
    "lengths: wanted a whole number from 0 to 1, got 2": (
        *("attention", F, F, F, None, None, None, I + 2, F, *[1] * 9, 1, 1, 1, 1, 1, 1),
    ),
    "stride: wanted a whole number from 0": (
        *("attention_backward", F, F, F, F, None, None, None, None, F, F, F, None, None, None),
        *(-1, *[1] * 11, 1, 1, 1, 1, 1, 1),
    ),
    "bias|weight: wanted an address": ("sample_code", F, D, None, F, I, F, 1, 1, 1, 1, 0, 1, 1),
    "K: wanted a whole number from 2 to 2": (
        *("sample_code", F, D, None, None, I, F, 1, 2, 3, 1.0, 0, 1.0, 1),
    ),
    "temperature: wanted": ("sample_code", F, D, F, F, I, F, 1, 1, 1, np.nan, 0, 1.0, 1),
    "top_p: wanted a number above 0": ("sample_code", F, D, F, F, I, F, 1, 1, 1, 1.0, 0, 0.0, 1),
    "n_masked: wanted a whole number from 0 to 3, got 4": (
        *("keep_confident", F, I + 4, F, 1, 3, 4, 1),
    ),
    "n_bytes: wanted 4 or 8, got 2": ("keep_confident", F, I, F, 1, 3, 2, 1),
    "rows: wanted a whole number from 0 to 0, got 1": (
        *("masked_cross_entropy", F, F, F, I + 1, I, F, 1, 1, 1, 1, 1),
    ),
    "target: wanted a whole number from 0 to 0, got 1": (
        *("masked_cross_entropy", F, F, F, I, I + 1, F, 1, 1, 1, 1, 1),
    ),
    "rows: wanted distinct ones, got 1 twice": (
        *("masked_cross_entropy_backward", F, F, None, TWICE, I, F, F, F, None, 2, 2, 1, 1, 1),
    ),
    "n_dropped: wanted a whole number from 0 to 65535": ("dropout", F, I, None, F, 1, 65536, 1),
    "source: wanted a whole number from 0 to 1, got 2": (
        *("sum_taps", F, I + 2, F, F, F, F, 1, 2, 1, 1, 1, 1),
    ),
    "B: wanted a whole number from 1": (
        *("sum_taps_backward", F, F, F, F, F, I, F, F, F, 0, 2, 1, 1, 1, 1),
    ),
    "band: wanted a whole number from 0 to 65535": ("philox", I, I, 1, 1, 1, 0, 0, 65536, 1),
    "n_threads: wanted a whole number from 0 to 4096": ("snake", F, F, F, F, F, 1, 1, 1, 5000),
}


@pytest.mark.parametrize("pattern", WRONG)
def test_wrong_arguments(pattern):
    name, *arguments = WRONG[pattern]
    with pytest.raises(Failed, match=f"BAD_ARGUMENT: .*({pattern})"):
        call(name, *arguments)
