"""Files that are damaged or lie: always a typed error that names the file."""

import gzip
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tsgen import formats_io
from tsgen.errors import ArgumentError, FileError, TsgenError
from tsgen.formats import READ, read, write

TS = "@problemName x\n@univariate true\n@equalLength true\n@seriesLength 3\n@classLabel true a b\n"
ARFF = "@relation x\n@attribute a numeric\n@attribute b numeric\n@attribute t {u,v}\n@data\n"
LONG = "series_id,t,value\n"


def put(folder, name, content):
    path = Path(folder) / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.tsv", "", "at least one series"),
        ("a.tsv", "1\n", "line 1: wanted a label"),
        ("a.tsv", "1\t2\n", "2 time steps"),
        ("a.tsv", "1\t2\t3\n1\t2\n", "line 2: .*2 tab"),
        ("a.tsv", "1\t2\t3\n1\t2\tx\n", "line 2: wanted a number in place 3, got 'x'"),
        ("a.tsv", "1\t2\t1_0\n", "line 1: wanted a number"),
        ("a.tsv", "1\t2\tinf\n", "line 1: wanted finite"),
        ("a.tsv", "1\t2\t3\n\n1\t2\t1e39\n", "line 3: wanted finite"),
        ("a.tsv", "NaN\t2\t3\n", "line 1: wanted a class label"),
        ("a.tsv", "1\t2\t3\n1\tNaN\tNaN\n", "line 2: .*only missing"),
        ("a.tsv", b"1\t2\t\xff\n", "line 1: wanted UTF-8"),
        ("a.tsv", b"\x00" * 99, "line 1"),
        ("a.csv", "", "empty file"),
        ("a.csv", "a,b\n", "at least one series"),
        ("a.csv", "a,1,2\nb,3,4\n", "line 2: wanted a number in place 1, got 'b'"),
        ("a.csv", "1,2\n3\n", "line 2: wanted 2 cells, got 1"),
        ("a.csv", LONG, "at least one series"),
        ("a.csv", LONG + "0,0,1\n0,0,2\n", "once"),
        ("a.csv", LONG + "0,0,1\n0,2,2\n0,3,2\n0,4,2\n0,5,5\n", "t to count"),
        ("a.csv", LONG + "0,1,1\n1,0,2\n1,1,2\n", "every t"),
        ("a.csv", LONG + "0,999999999999,1\n", "t to count"),
        ("a.csv", LONG + "0,x,1\n0,1,2\n", "t to count"),
        ("a.csv", LONG + "0,0,1\n0,1,zero\n", "line 3: wanted a number in place 3"),
        ("a.csv", "label," + LONG + "a,0,0,1\nb,0,1,2\n", "one label"),
        ("a.ts", TS, "line @data"),
        ("a.ts", TS + "@data\n", "at least one series"),
        ("a.ts", TS + "1,2,3:a\n", "before @data"),
        ("a.ts", TS + "@data\n1,2:a\n", "line 7: wanted 3 time steps, got 2"),
        ("a.ts", TS + "@data\n1,2,3:4,5,6:a\n", "line 7: wanted 1 dimensions, got 2"),
        ("a.ts", TS + "@data\n1,2,3:c\n", "line 7: wanted a class of @classLabel, got 'c'"),
        ("a.ts", TS + "@data\n1,2,3\n", "line 7"),
        ("a.ts", "@dimensions 2\n@data\n1,2:3\n", "one length"),
        ("a.ts", "@dimensions 2\n@data\n1,2\n", "wanted 2 dimensions, got 1"),
        ("a.ts", "@data\n1,2:3,4\n1,2\n", "line 3: wanted 2 dimensions"),
        ("a.ts", "@dimensions -1\n@data\n1,2\n", "positive number"),
        ("a.ts", "@seriesLength " + "9" * 99 + "\n@data\n1,2\n", "positive number"),
        ("a.ts", "@timeStamps true\n@data\n(0,1)\n", "time stamps"),
        ("a.ts", "@univariate maybe\n@data\n1,2\n", "true or false"),
        ("a.arff", ARFF, "at least one series"),
        ("a.arff", ARFF + "1,2,3,u\n", "line 6: wanted 2 values"),
        ("a.arff", ARFF + "1,2,w\n", "line 6: wanted a declared class"),
        ("a.arff", ARFF + "{0 1}\n", "sparse"),
        ("a.arff", "@relation x\n@data\n1\n", "numeric attributes"),
        ("a.arff", "@relation x\n@attribute a string\n@data\n1\n", "line 2"),
        ("a.arff", "1,2\n", "line 1"),
        ("a.arff", ARFF[:40], "line"),
        ("a.npy", "", "NumPy"),
        ("a.npz", "", "BadZipFile"),
        ("a.npz", "PK\x03\x04" + "x" * 99, "BadZipFile"),
        ("a.parquet", "PAR1 PAR1", "a.parquet"),
        ("a.parquet", "", "a.parquet"),
        ("a.tsv.gz", "no gzip", "BadGzipFile"),
        ("a.csv.gz", gzip.compress(b"1,2\n3,4\n", mtime=0)[:-9], "EOFError"),
    ],
)
def test_damaged_files(tmp_path, name, text, match):
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    path = put(tmp_path, name, text)
    with pytest.raises(FileError, match=match) as error:
        read(path)
    assert str(path) in str(error.value)


def npy(shape="(2, 3)", dtype="<f4", data=b"\0" * 24, version=1):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + data


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (npy(data=b"\0" * 23), "wanted 24 bytes .* got 23"),
        (npy(data=b"\0" * 25), "got more"),
        (npy(shape="(9999999999, 9999999999)"), "a.npy"),
        (npy(shape="(-2, -3)"), "sizes"),
        (npy(shape="(True, 6)"), "a.npy"),
        (npy(shape="(1, 1, 2, 3)"), "3 sizes"),
        (npy(dtype="|O"), "pickles"),
        (npy(dtype="<c8"), "dtype"),
        (npy(version=3), "version"),
        (npy(version=2)[:8] + b"\xff\xff\xff\xff", "header of at most"),
        (npy(shape="(" * 500), "a.npy"),
        (npy(dtype="<U1"), "got dtype"),
        (npy(shape="(6,)"), "1-D"),
        (npy(data=b"\xff\xff\x80\x7f" * 6), "infinite|NaN"),
        (pickle.dumps([1.0]), "NumPy"),
    ],
)
def test_hostile_npy(tmp_path, content, match):
    if "infinite" in match:
        content = npy(data=struct.pack("<f", float("inf")) * 6)
    with pytest.raises(FileError, match=match):
        read(put(tmp_path, "a.npy", content))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("X.npy", content)
    with pytest.raises(FileError, match=r"a\.npz"):
        read(put(tmp_path, "a.npz", packed.getvalue()))


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_no_pickle_is_run(tmp_path):
    marker = tmp_path / "marker"
    array = np.empty(2, object)
    array[0] = Payload(marker)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", X=np.ones((2, 3)), y=array)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(FileError, match="pickles"):
            read(tmp_path / name)
    assert not marker.exists()


def test_npz_that_disagrees(tmp_path):
    for extra in (
        {"y": [1]},
        {"lengths": [9, 9]},
        {"lengths": [1.0, 1.0]},
        {"channels": ["a", "b"]},
    ):
        np.savez(tmp_path / "a.npz", X=np.ones((2, 1, 3)), **extra)
        with pytest.raises(FileError, match="wanted"):
            read(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.tsv.gz", "a.npy.gz", "a.npz.gz", "a.npz", "a.parquet.gz"])
def test_bombs_stop_at_the_budget(tmp_path, name):
    zeros = np.zeros((1, 1, 2**22), np.float32)
    path = tmp_path / name
    if name == "a.tsv.gz":
        path.write_bytes(gzip.compress(b"1\t" + b"0\t" * 2**20 + b"0\n"))
    elif name == "a.npz":
        np.savez_compressed(path, X=zeros)
    elif name == "a.parquet.gz":
        path.write_bytes(gzip.compress(b"PAR1" + bytes(2**22)))
    else:
        write(path, zeros)
    assert path.stat().st_size < 200_000
    with pytest.raises(FileError, match="max_bytes"):
        read(path, max_bytes=2**20)


def test_padding_stops_at_the_budget(tmp_path):
    text = "@data\n" + ",".join("1" * 5000) + "\n" + "1\n" * 5000
    with pytest.raises(FileError, match="padding"):
        read(put(tmp_path, "a.ts", text), max_bytes=2**20)
    rows = "".join(f"0,{t},1\n" for t in range(2000)) + "".join(
        f"{i},0,1\n" for i in range(1, 2000)
    )
    with pytest.raises(FileError, match="padding"):
        read(put(tmp_path, "a.csv", LONG + rows), max_bytes=2**20)


def test_long_lines_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(formats_io, "MAX_LINE", 1000)
    with pytest.raises(FileError, match=r"line 2: .*at most 1000"):
        read(put(tmp_path, "a.csv", "1,2\n" + "1," * 999 + "1\n"))


def test_paths(tmp_path):
    for name in READ:
        with pytest.raises(FileError, match="no such"):
            read(tmp_path / f"a{name}")
    for name, error in [("a.pkl", ArgumentError), ("a", ArgumentError), ("a.pt", ArgumentError)]:
        with pytest.raises(error, match="wanted one of"):
            read(put(tmp_path, name, "x"))
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(FileError, match="regular file"):
        read(tmp_path / "pipe.csv")
    with pytest.raises(TsgenError, match="path"):
        read(5)
    with pytest.raises(FileError, match="no such"):
        read("a\0.csv")
    path = put(tmp_path, "a.csv", "1,2\n")
    for kwargs in ({"layout": "x"}, {"split": "x"}, {"label_column": "no"}, {"label_column": 5}):
        with pytest.raises(ArgumentError, match=next(iter(kwargs))):
            read(path, **kwargs)


def test_missing_pyarrow_is_explained(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ArgumentError, match=r"pip install tsgen\[io\]"):
        read(put(tmp_path, "a.parquet", "PAR1"))
    with pytest.raises(ArgumentError, match=r"pip install tsgen\[io\]"):
        write(tmp_path / "b.parquet", np.ones((2, 3)))
