"""Class labels: names, indices, and what is refused."""

import json

import numpy as np
import pytest
import torch

from tsgen.data import Labels
from tsgen.errors import ArgumentError, TsgenError


@pytest.mark.parametrize(
    ("y", "names"),
    [
        ([10, 2, -1], ("-1", "2", "10")),
        (np.array([3.0, 1.0]), ("1", "3")),
        (["10", "9", "9"], ("9", "10")),
        (["b", "a", "10"], ("10", "a", "b")),
        (np.array([b"x", b"w"]), ("w", "x")),
        (np.array(["x", 2, "x"], dtype=object), ("2", "x")),
        (torch.tensor([4, 4]), ("4",)),
    ],
)
def test_labels_names(y, names):
    labels = Labels.fit(y)
    assert labels.names == names
    np.testing.assert_array_equal(
        labels.decode(labels.encode(y)),
        [str(v) for v in (labels.names[i] for i in labels.encode(y))],
    )
    assert Labels.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


def test_labels_from_pandas():
    pd = pytest.importorskip("pandas")
    assert Labels.fit(pd.Series(["b", "a"])).names == ("a", "b")
    assert Labels.fit(pd.Series([2, 1], index=[5, 6])).names == ("1", "2")
    assert Labels.fit(pd.Categorical(["b", "a"])).names == ("a", "b")
    with pytest.raises(ArgumentError, match="missing"):
        Labels.fit(pd.Series(["b", None]))


@pytest.mark.parametrize(
    "y",
    [
        [],
        [[1], [2]],
        [1.5],
        [np.nan],
        [1.0, np.inf],
        [None],
        ["a", None],
        ["a", ""],
        [True],
        [1j],
        ["a", np.nan],
        np.array(["a", np.nan]),
        [[1], [2, 3]],
        "abc",
        5,
        [object()],
        np.array(["2020-01-01"], "datetime64[D]"),
    ],
)
def test_labels_refuse(y):
    with pytest.raises(TsgenError, match=r"^(y|names):"):
        Labels.fit(y)


def test_names_win_over_indices():
    labels = Labels(("1", "2", "3"))
    assert labels.encode(1, 2).tolist() == [0, 0]
    assert labels.encode("1").tolist() == [0]
    assert labels.encode(0).tolist() == [0]  # no class is called 0, so it is an index
    assert labels.encode(np.float64(3)).tolist() == [2]
    assert labels.encode([1, 2, 3]).tolist() == [0, 1, 2]
    assert labels.encode([0, 1, 2]).tolist() == [0, 1, 2]  # not all are names: indices
    assert labels.encode([], 0).shape == (0,)
    assert Labels(("1.0", "2.0")).encode([2, 1]).tolist() == [1, 0]
    assert Labels(("b", "a")).encode(["a", "b"], 2).dtype == np.int64


@pytest.mark.parametrize("label", ["x", "0", 4, -1, [1, 9], ["1", "x"], [0, 3]])
def test_unknown_label_lists_the_names(label):
    with pytest.raises(ArgumentError, match=r"label: wanted one of '1', '2', '3'"):
        Labels(("1", "2", "3")).encode(label)


def test_label_errors_are_bounded():
    with pytest.raises(ArgumentError, match=r"\.\.\. \(1000 in all\)") as error:
        Labels(tuple(f"c{i}" for i in range(1000))).encode("x")
    assert len(str(error.value)) < 400
    with pytest.raises(ArgumentError, match="3 labels"):
        Labels(("a",)).encode(["a", "a"], 3)
    with pytest.raises(ArgumentError, match=r"n: "):
        Labels(("a",)).encode("a", -1)
    for d in (None, {}, {"names": "ab"}, {"names": [1]}, {"names": []}, {"names": ["a", "a"]}):
        with pytest.raises(ArgumentError):
            Labels.from_dict(d)
    for ids in ([1], [-1], [0.0]):
        with pytest.raises(ArgumentError, match="ids"):
            Labels(("a",)).decode(ids)
