"""Files in and out: round trips, the UCR archive, headers that lie."""

import gzip
import io

import numpy as np
import pytest
import ucr

from tsgen.errors import ArgumentError, FileError, TsgenError
from tsgen.formats import WRITE, read, write

RNG = np.random.default_rng(0)
SPECIAL = np.float32([0.1, -0.0, 1e-45, 3.4028235e38, -1e-30, 1 / 3, 16777217])
SUFFIXES = [*WRITE, *(f"{suffix}.gz" for suffix in WRITE)]


def series(n=6, channels=1, time=7):
    x = RNG.standard_normal((n, channels, time)).astype(np.float32)
    x[0, 0, :7] = SPECIAL
    x[1, 0, 2] = np.nan
    return x


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_is_exact(tmp_path, suffix, channels):
    if "parquet" in suffix:
        pytest.importorskip("pyarrow")
    x = series(channels=channels)
    y = None if "npy" in suffix else np.array(["b", "a,1", "b", "c", "a,1", 'q"'])
    if ".ts" in suffix:
        y = np.array(["b", "a", "b", "c", "a", "b"])
    path = tmp_path / f"x{suffix}"
    write(path, x, y)
    c = read(path)
    np.testing.assert_array_equal(
        c.X.view(np.uint32)[~np.isnan(x)], x.view(np.uint32)[~np.isnan(x)]
    )
    np.testing.assert_array_equal(np.isnan(c.X), np.isnan(x))
    assert c.lengths is None
    assert c.y is None if y is None else c.y.tolist() == y.tolist()
    write(path, x, y)  # replaces, byte for byte
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".ts", ".parquet"])
@pytest.mark.parametrize("channels", [1, 2])
def test_unequal_lengths(tmp_path, suffix, channels):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    x, lengths = series(channels=channels), np.array([7, 4, 2, 7, 3, 1])
    before = x.copy()
    path = tmp_path / f"x{suffix}"
    write(path, x, lengths=lengths)
    np.testing.assert_array_equal(x, before)
    c = read(path)
    assert c.lengths is not None
    np.testing.assert_array_equal(c.lengths, lengths)
    x[np.broadcast_to(np.arange(7) >= lengths[:, None, None], x.shape)] = np.nan
    np.testing.assert_array_equal(c.X, x)


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_channel_names(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    write(tmp_path / f"x{suffix}", series(channels=2), [1, 2, 3, 1, 2, 3], channels=["b", "a, a"])
    c = read(tmp_path / f"x{suffix}")
    assert c.channels == ("b", "a, a")
    assert c.y.tolist() == list("123123")


@pytest.mark.parametrize(
    ("name", "n", "shape", "classes"),
    [
        ("CBF", (30, 900), (1, 128), 3),
        ("GunPoint", (50, 150), (1, 150), 2),
        ("ACSF1", (100, 100), (1, 1460), 10),
        ("BasicMotions", (40, 40), (6, 100), 4),
        ("Crop", (7200, 16799), (1, 46), 24),
    ],
)
def test_ucr(name, n, shape, classes):
    for split, cases in zip(("train", "test"), n, strict=True):
        c = ucr.load(name, split)
        assert c.X.shape == (cases, *shape)
        assert len(np.unique(c.y)) == classes
        assert np.isfinite(c.X).all()


def test_ucr_unequal():
    c = ucr.load("JapaneseVowels", "test")
    assert (c.X.shape, c.lengths.min(), c.lengths.max()) == ((370, 12, 29), 7, 29)
    assert np.isnan(c.X).sum() == (12 * (29 - c.lengths)).sum()


def test_ucr_values_are_those_numpy_reads():
    c = ucr.load("GunPoint")
    raw = np.loadtxt(ucr.folder("GunPoint") / "GunPoint_TRAIN.tsv")
    np.testing.assert_array_equal(c.X[:, 0], raw[:, 1:].astype(np.float32))
    np.testing.assert_array_equal(c.y.astype(int), raw[:, 0])


def put(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_tsv_padding_and_labels(tmp_path):
    c = read(put(tmp_path, "a.tsv", "\ufeff1.0\t1\tNaN\t3\r\n\n-1\t4\t5\tNaN\n"))
    assert c.y.tolist() == ["1", "-1"]
    np.testing.assert_array_equal(c.lengths, [3, 2])
    np.testing.assert_array_equal(c.X[:, 0], [[1, np.nan, 3], [4, 5, np.nan]])


@pytest.mark.parametrize(
    ("text", "kwargs", "y"),
    [
        ("1,2\n3,4\n", {}, None),
        ("label,t0,t1\nb,1,2\na,3,4", {}, ["b", "a"]),
        ("t0,Class,t1\n1,b,2\n3,a,4\n", {}, ["b", "a"]),
        ("b,1,2\na,3,4\n", {"label_column": 0}, ["b", "a"]),
        ("1,2,b\n3,4,a\n", {"label_column": -1}, ["b", "a"]),
        ('x,y z,w\n1,"b",2\n3,a,4\n', {"label_column": "y z"}, ["b", "a"]),
        ("0,1\n1,2\n3,4\n", {"header": True}, None),
        ("7,1,2\n8,3,4\n", {"label_column": 0, "header": False}, ["7", "8"]),
    ],
)
def test_csv_headers_and_labels(tmp_path, text, kwargs, y):
    c = read(put(tmp_path, "a.csv", text), **kwargs)
    np.testing.assert_array_equal(c.X[:, 0], [[1, 2], [3, 4]])
    assert c.y is None if y is None else c.y.tolist() == y


def test_long_csv_in_any_order(tmp_path):
    text = "t,value,series_id,channel\n1,2,s,x\n0,1,s,x\n0,9,r,x\n1,4,s,y\n0,3,s,y\n0,8,r,y\n"
    c = read(put(tmp_path, "a.csv", text))
    np.testing.assert_array_equal(c.X, [[[1, 2], [3, 4]], [[9, np.nan], [8, np.nan]]])
    assert c.channels == ("x", "y")
    np.testing.assert_array_equal(c.lengths, [2, 1])


def test_arff(tmp_path):
    flat = "% c\n@relation x\n@attribute a numeric\n@attribute 'b c' REAL\n"
    flat += "@attribute t {1,'2'}\n@data\n"
    c = read(put(tmp_path, "a.arff", flat + "1,2,1\n3,?,'2'\n"))
    np.testing.assert_array_equal(c.X[:, 0], [[1, 2], [3, np.nan]])
    assert (c.y.tolist(), c.lengths.tolist()) == (["1", "2"], [2, 1])
    deep = (
        "@relation x\n@attribute r relational\n@attribute a numeric\n@attribute b numeric\n@end r\n"
        "@attribute t {u,v}\n@data\n'1,2\\n3,4',u\n\"5,6\\n7,8\",v\n"
    )
    c = read(put(tmp_path, "b.arff", deep))
    np.testing.assert_array_equal(c.X, [[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    assert c.y.tolist() == ["u", "v"]


def test_wide_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        pa.table({"label": ["b", "a"], "0": [1, 2], "1": [3.0, None]}), tmp_path / "a.parquet"
    )
    c = read(tmp_path / "a.parquet")
    np.testing.assert_array_equal(c.X[:, 0], [[1, 3], [2, np.nan]])
    assert (c.y.tolist(), c.lengths.tolist()) == (["b", "a"], [2, 1])


def test_npz_splits_and_layout(tmp_path):
    x = RNG.standard_normal((3, 9, 2))
    np.savez(tmp_path / "a.npz", X_train=x, y_train=[3, 1, 2], X_test=x[:2])
    c = read(tmp_path / "a.npz", split="train", layout="ntc")
    np.testing.assert_array_equal(c.X, x.transpose(0, 2, 1).astype(np.float32))
    assert c.y.tolist() == ["3", "1", "2"]
    assert read(tmp_path, split="test", layout="ntc").y is None
    with pytest.raises(ArgumentError, match="split"):
        read(tmp_path / "a.npz")
    np.save(tmp_path / "f.npy", np.asfortranarray(x.transpose(0, 2, 1)))
    np.testing.assert_array_equal(read(tmp_path / "f.npy").X, c.X)


def test_folder(tmp_path):
    with pytest.raises(FileError, match="NAME_TRAIN"):
        read(tmp_path, split="train")
    put(tmp_path, "A_TRAIN.tsv", "1\t2\t3\n")
    put(tmp_path, "A_TEST.tsv.gz", gzip.compress(b"1\t2\t4\n"))
    put(tmp_path, "README.md", "x")
    assert read(tmp_path, split="test").X.tolist() == [[[2, 4]]]
    with pytest.raises(ArgumentError, match="split"):
        read(tmp_path)
    with pytest.raises(ArgumentError, match="split"):
        read(tmp_path / "A_TRAIN.tsv", split="train")
    write(tmp_path / "A_TRAIN.npz", np.ones((1, 2)))
    assert read(tmp_path, split="train").y is None  # .npz comes first
    put(tmp_path, "B_TRAIN.ts", "x")
    with pytest.raises(ArgumentError, match=r"\['A', 'B'\]"):
        read(tmp_path, split="train")


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"x": np.ones((2, 3)), "labels": ["a"]}, "labels"),
        ({"x": np.ones((2, 3)), "labels": ["a", None]}, "labels"),
        ({"x": np.ones((2, 3)), "labels": ["a\nb", "c"]}, "labels"),
        ({"x": np.ones((2, 3)), "lengths": [1, 4]}, "lengths"),
        ({"x": np.ones((2, 3)), "lengths": [1.0, 2.0]}, "lengths"),
        ({"x": np.ones((2, 2, 3)), "channels": ["a", "a"]}, "channels"),
        ({"x": np.full((2, 3), np.inf)}, "infinite"),
    ],
)
def test_write_refuses_and_leaves_nothing(tmp_path, kwargs, match):
    with pytest.raises(ArgumentError, match=match):
        write(tmp_path / "a.csv", **kwargs)
    assert list(tmp_path.iterdir()) == []


def test_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.ts"
    write(path, np.ones((2, 3)))
    old = path.read_bytes()
    with pytest.raises(ArgumentError, match="spaces"):
        write(path, np.ones((2, 3)), ["a b", "c"])

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FileError, match=r"a\.ts: cannot be written: .*No space"):
        write(path, np.zeros((2, 3)))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_write_paths(tmp_path):
    for bad, error in [("a.tsv", ArgumentError), ("a", ArgumentError), ("no/a.npz", FileError)]:
        with pytest.raises(error, match="a"):
            write(tmp_path / bad, np.ones((2, 3)))
    (tmp_path / "d.npz").mkdir()
    with pytest.raises(FileError, match=r"d\.npz"):
        write(tmp_path / "d.npz", np.ones((2, 3)))
    with pytest.raises(ArgumentError, match="npy"):
        write(tmp_path / "a.npy", np.ones((2, 3)), [1, 2])
    with pytest.raises(TsgenError, match="path"):
        write(io.BytesIO(), np.ones((2, 3)))
    assert [p.name for p in tmp_path.iterdir()] == ["d.npz"]
