"""Arrays in, errors out: as_series, pad_series and Scaler."""

import json

import numpy as np
import pytest
import torch

from tsgen.data import Scaler, as_series, pad_series, warn_if_swapped
from tsgen.errors import ArgumentError, ArgumentTypeError, TsgenError

X = np.random.default_rng(0).standard_normal((5, 2, 7)).astype(np.float32)


def same(x, **kwargs):
    out = as_series(x, **kwargs)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    assert out.flags.writeable
    np.testing.assert_array_equal(out, X)


@pytest.mark.parametrize(
    "x",
    [
        X,
        X.astype(np.float64),
        X.astype(np.longdouble),
        X.astype(">f4"),
        X.astype(">f8"),
        np.asfortranarray(X),
        np.repeat(X, 2, axis=2)[:, :, ::2],
        list(X),
        tuple(X),
        X.tolist(),
        [one.tolist() for one in X],
        torch.tensor(X),
        torch.tensor(X).double(),
        torch.tensor(X).requires_grad_(),
        torch.tensor(X.transpose(0, 2, 1).copy()).transpose(1, 2),
        [torch.tensor(one) for one in X],
    ],
)
def test_every_kind_of_input_gives_the_same_array(x):
    same(x)


def test_result_is_new_and_input_unchanged():
    x = X.copy()
    x.flags.writeable = False
    out = as_series(x)
    assert not np.shares_memory(out, x)
    out[:] = 0
    np.testing.assert_array_equal(x, X)
    wide = X[:, :1].copy()
    as_series(wide[:, 0])[:] = 0
    np.testing.assert_array_equal(wide, X[:, :1])


def test_layout_is_named():
    same(X.transpose(0, 2, 1), layout="ntc")
    same(list(X.transpose(0, 2, 1)), layout="ntc")
    assert as_series(X[:, 0], layout="ntc").shape == (5, 1, 7)
    with pytest.warns(UserWarning, match="other"):
        warn_if_swapped(X.transpose(0, 2, 1), "nct")
    with pytest.raises(ArgumentError, match="layout"):
        as_series(X, layout="tcn")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int64, np.uint64, np.float16])
def test_other_dtypes(dtype):
    x = np.arange(12).reshape(2, 6).astype(dtype)
    np.testing.assert_array_equal(as_series(x)[:, 0], np.arange(12).reshape(2, 6))


def test_bfloat16_and_small_ints_from_torch():
    np.testing.assert_array_equal(
        as_series(torch.ones(2, 3, dtype=torch.bfloat16)), np.ones((2, 1, 3))
    )
    np.testing.assert_array_equal(as_series(torch.ones(2, 3, dtype=torch.int8)), np.ones((2, 1, 3)))


def test_frames():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X[:, 0])
    np.testing.assert_array_equal(as_series(frame), X[:, :1])
    nullable = pd.DataFrame({"a": pd.array([1, 2], dtype="Int64"), "b": [3.0, 4.0]})
    np.testing.assert_array_equal(as_series(nullable)[:, 0], [[1, 3], [2, 4]])
    with pytest.raises(ArgumentTypeError, match="column 'c'"):
        as_series(frame.assign(c="text"))
    with pytest.raises(ArgumentError, match="long"):
        as_series(pd.DataFrame({"series_id": [0, 0], "t": [0, 1], "value": [1.0, 2.0]}))
    with pytest.raises(ArgumentError, match=r"1-D .*X\[None\]"):
        as_series(pd.Series([1.0, 2.0]))
    pa = pytest.importorskip("pyarrow")
    table = pa.table({str(i): X[:, 0, i] for i in range(7)})
    np.testing.assert_array_equal(as_series(table), X[:, :1])


def bad(value, index=(0, 0, 1)):
    x = X.astype(np.float64)
    x[index] = value
    return x


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (X[0, 0], ArgumentError, r"X: wanted .*1-D.*X\[None\]"),
        ([1.0, 2.0, 3.0], ArgumentError, r"X\[0\].*pass \[X\]"),
        (X[None], ArgumentError, "4-D"),
        (np.float32(1), ArgumentError, "0-D"),
        (np.zeros((0, 1, 5)), ArgumentError, "at least 1 series"),
        (np.zeros((2, 0, 5)), ArgumentError, "1 channel"),
        (np.zeros((2, 1, 1)), ArgumentError, "2 time steps"),
        (np.zeros((2, 1, 0)), ArgumentError, "2 time steps"),
        ([], ArgumentError, "empty list"),
        ([[]], ArgumentError, "at least one value"),
        (X.astype(object), ArgumentTypeError, "dtype object"),
        (X.astype(str), ArgumentTypeError, "dtype <U"),
        (X.astype(complex), ArgumentTypeError, "complex128"),
        (X > 0, ArgumentTypeError, "bool"),
        (X.astype("datetime64[s]"), ArgumentTypeError, "datetime64"),
        (torch.ones(2, 3, dtype=torch.bool), ArgumentTypeError, "bool"),
        (torch.ones(2, 3, dtype=torch.complex64), ArgumentTypeError, "complex"),
        (torch.ones(2, 3).to_sparse(), ArgumentError, "dense"),
        (torch.ones(2, 3, device="meta"), ArgumentError, "dense"),
        ("text", ArgumentTypeError, "str"),
        (None, ArgumentTypeError, "NoneType"),
        ({"a": [1, 2]}, ArgumentTypeError, "dict"),
        (iter([1, 2]), ArgumentTypeError, "iterator"),
        ([[1.0, "a"], [2.0, "b"]], ArgumentTypeError, r"X\[0\]"),
        ([[1.0, None]], ArgumentTypeError, r"X\[0\]"),
        ([X[0], X[0, :1]], ArgumentError, r"X\[1\]: wanted as many channels"),
        ([X[0], X[0, 0]], ArgumentError, r"X\[1\]"),
        ([[[1.0, 2.0], [1.0]]], ArgumentTypeError, r"X\[0\]"),
        ([X[0], X[1, :, :5]], ArgumentError, "lengths from 5 to 7.*pad_series"),
        (bad(np.nan), ArgumentError, r"X: .*1 NaN, the first at index \[0, 0, 1\]"),
        (bad(np.inf), ArgumentError, r"1 infinite, the first at index \[0, 0, 1\]"),
        (bad(-np.inf), ArgumentError, "1 infinite"),
        (bad(1e39), ArgumentError, "1 too large for float32"),
        (
            np.ma.masked_equal(X, X[0, 0, 1]),
            ArgumentError,
            "1 NaN",
        ),
    ],
)
def test_bad_input_is_refused(x, error, message):
    with pytest.raises(error, match=message):
        as_series(x)


def test_errors_use_the_name_and_the_callers_index():
    x = np.ones((3, 7, 2))
    x[1, 5, 0] = np.nan
    with pytest.raises(ArgumentError, match=r"history: .*\[1, 5, 0\]"):
        as_series(x, layout="ntc", name="history")
    assert np.isnan(as_series(x, layout="ntc", allow_nan=True)[1, 0, 5])


def test_works_under_strict_numpy_errors():
    with np.errstate(all="raise"):
        assert as_series(bad(1e-60))[0, 0, 1] == 0
        with pytest.raises(ArgumentError, match="too large"):
            as_series(bad(1e39))


def test_pad_series():
    out, lengths = pad_series([[1, 2, 3], [4]], mode="edge")
    np.testing.assert_array_equal(out, [[[1, 2, 3]], [[4, 4, 4]]])
    np.testing.assert_array_equal(lengths, [3, 1])
    assert (out.dtype, lengths.dtype) == (np.float32, np.int64)
    out, _ = pad_series([np.ones((3, 2)), np.ones((1, 2))], length=4, layout="ntc")
    np.testing.assert_array_equal(np.isnan(out[:, 1]), [[0, 0, 0, 1], [0, 1, 1, 1]])
    np.testing.assert_array_equal(
        out[:, :, :3],
        as_series([np.ones((3, 2)), np.ones((1, 2))], layout="ntc", allow_unequal=True),
    )


@pytest.mark.parametrize(
    "kwargs", [{"length": 2}, {"length": 3.5}, {"mode": "zero"}, {"layout": "x"}]
)
def test_pad_series_refuses(kwargs):
    with pytest.raises(TsgenError, match=next(iter(kwargs))):
        pad_series([[1, 2, 3], [4]], **kwargs)


def test_unequal_lengths_still_refuse_nan():
    with pytest.raises(ArgumentError, match=r"X\[1\].*1 NaN"):
        as_series([[1, 2, 3], [4, np.nan]], allow_unequal=True)
    with pytest.raises(ArgumentError, match="1 NaN"):
        as_series([[1, 2], [4, np.nan]], allow_unequal=True)


@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30, 1e-44])
def test_scaler(scale):
    x = (X.astype(np.float64) * scale).astype(np.float32)
    scaler = Scaler.fit(x)
    z = scaler.apply(x)
    if scale > 1e-40:  # a denormal has too few bits
        np.testing.assert_allclose(z.mean(axis=(0, 2)), 0, atol=1e-6)
        np.testing.assert_allclose(z.std(axis=(0, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(scaler.undo(z), x, rtol=1e-5, atol=float(abs(x).max()) * 1e-6)
    assert Scaler.from_dict(json.loads(json.dumps(scaler.to_dict()))) == scaler


@pytest.mark.parametrize("value", [0.1, 1e30, -1e-30, 1e-45, 0.0])
def test_scaler_constant_channel_comes_back(value):
    x = np.full((3, 1, 50), value, np.float32)
    scaler = Scaler.fit(x)
    assert scaler.std == (1.0,)
    np.testing.assert_array_equal(scaler.undo(scaler.apply(x)), x)


def test_scaler_ignores_nan_and_keeps_it():
    x = X.copy()
    x[0, 0, 0] = np.nan
    scaler = Scaler.fit(x)
    assert scaler.mean[0] == pytest.approx(np.nanmean(x[:, 0].astype(float)))
    assert np.isnan(scaler.apply(x)[0, 0, 0])
    assert scaler.undo(np.zeros((0, 2, 7), np.float32)).shape == (0, 2, 7)
    with pytest.raises(ArgumentError, match="channel 1"):
        Scaler.fit(np.stack([X[:, 0], X[:, 0] * np.nan], axis=1))
    with pytest.raises(ArgumentError, match="channels"):
        scaler.apply(X[:, :1])
    with pytest.raises(ArgumentError, match="overflow"):
        Scaler((0.0,), (1e-44,)).apply(X[:, :1])


@pytest.mark.parametrize(
    "d",
    [
        None,
        {},
        {"mean": [0.0]},
        {"mean": [0.0], "std": [0.0]},
        {"mean": [0.0], "std": ["1"]},
        {"mean": [float("nan")], "std": [1.0]},
        {"mean": [0.0], "std": [1.0, 1.0]},
        {"mean": [], "std": []},
        {"mean": "1", "std": "1"},
        {"mean": [0.0], "std": [-1.0]},
    ],
)
def test_scaler_refuses_damaged_json(d):
    with pytest.raises(ArgumentError):
        Scaler.from_dict(d)
