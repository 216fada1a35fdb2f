"""Parsers on random and on damaged bytes: a collection, or a typed error that names the file."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tsgen.errors import TsgenError
from tsgen.formats import read, write


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


BOUNDED = settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SCRAPS = st.lists(
    st.sampled_from(
        [
            "1",
            "-2.5",
            "nan",
            "?",
            "inf",
            "a",
            ",",
            "\t",
            ":",
            "\n",
            "\r\n",
            "'",
            '"',
            "{",
            "}",
            "%",
            "#",
            "@data\n",
            "@attribute a numeric\n",
            "@attribute r relational\n",
            "@end r\n",
            "\\n",
            "@attribute c {a,b}\n",
            "@relation x\n",
            "@classLabel true a b\n",
            "@univariate true\n",
            "@equalLength true\n",
            "@seriesLength 2\n",
            "@dimensions 2\n",
            "series_id,t,value\n",
            "label,t0,t1\n",
            "\0",
            "é",
            "1e400",
            "1_0",
            " ",
            "0,0,1\n",
            "0,1,1\n",
        ]
    ),
    max_size=40,
).map("".join)


def read_or_refuse(path, **kwargs):
    """The collection, or None after a typed error that names the file; anything else is a bug."""
    try:
        return read(path, **kwargs)
    except TsgenError as error:
        if path.name not in str(error):
            raise AssertionError(f"does not name the file: {error}") from error
        return None


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".ts", ".arff"])
@BOUNDED
@given(content=st.one_of(st.binary(max_size=200), SCRAPS.map(str.encode)))
def test_text_parsers_raise_only_typed_errors(tmp_path, suffix, content):
    c = read_or_refuse(put(tmp_path, f"a{suffix}", content))
    if c is not None:
        assert c.X.dtype == np.float32
        assert c.X.shape[2] >= 2
        assert not np.isinf(c.X).any()
        assert c.y is None or len(c.y) == len(c.X)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One good file of each kind, as bytes."""
    folder, x = tmp_path_factory.mktemp("whole"), np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    files = {}
    for suffix in (".npz", ".ts", ".csv", ".npy", ".npz.gz", ".parquet"):
        if suffix == ".parquet":
            pytest.importorskip("pyarrow")
        labels = None if suffix == ".npy" else ["a", "b", "a", "b"]
        write(folder / f"a{suffix}", x, labels)
        files[suffix] = (folder / f"a{suffix}").read_bytes()
    return files


@pytest.mark.parametrize("suffix", [".npz", ".ts", ".csv", ".npy", ".npz.gz", ".parquet"])
@BOUNDED
@given(data=st.data())
def test_damage_raises_only_typed_errors(tmp_path, whole, suffix, data):
    content = bytearray(whole[suffix])
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    read_or_refuse(put(tmp_path, f"a{suffix}", bytes(content[:cut])), max_bytes=2**24)
