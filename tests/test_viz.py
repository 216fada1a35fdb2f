"""Pictures: what they show, and that nothing else changes."""

import subprocess
import sys

import numpy as np
import pytest

from tsgen.cli import main
from tsgen.config import AUGMENTATIONS
from tsgen.errors import ArgumentError, ArgumentTypeError, FileError
from tsgen.viz import augmented_views, real_beside_generated

matplotlib = pytest.importorskip("matplotlib")

X = np.random.default_rng(0).normal(size=(30, 2, 16)).astype(np.float32)


def titles(figure):
    return [axis.get_title(loc="left") for axis in figure.axes]


def test_without_labels():
    figure = real_beside_generated(X, X[:7, :, :12], per_class=5, channel=1)
    assert titles(figure) == ["Real (n = 30)", "Generated (n = 7)"]
    left, right = figure.axes
    assert len(left.lines) == len(right.lines) == 5 + 1  # and the mean
    np.testing.assert_array_equal(left.lines[0].get_ydata(), X[0, 1])
    np.testing.assert_allclose(left.lines[-1].get_ydata(), X[:, 1].mean(0), rtol=1e-5)
    assert left.get_ylim() == right.get_ylim()


def test_a_row_for_each_class():
    figure = real_beside_generated(X[:4], X[:3], [1, 2, 2, 10], ["1", "2", "2"])
    assert titles(figure) == [
        "1: real (n = 1)",
        "1: generated (n = 1)",
        "2: real (n = 2)",
        "2: generated (n = 2)",
        "10: real (n = 1)",
        "10: generated (n = 0)",
    ]
    assert real_beside_generated(X[:1], X[:1], ["b"], ["a"]).axes[1].get_legend()


def test_many_classes():
    labels = np.arange(30) % 9
    figure = real_beside_generated(X, X, labels, labels)
    assert len(figure.axes) == 12
    assert figure.get_suptitle() == "The first 6 of 9 classes"


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_written(tmp_path, suffix):
    real_beside_generated(X, X, path=tmp_path / f"a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix])
    assert len(list(tmp_path.iterdir())) == 1


CODE = """
import sys, matplotlib, numpy as np
before = matplotlib.rcParams.copy()  # asking for its "backend" would load pyplot
from tsgen import viz
viz.real_beside_generated(np.eye(4), np.eye(4), path=sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""


def test_pyplot_is_left_alone(tmp_path):
    command = [sys.executable, "-W", "error", "-c", CODE, str(tmp_path / "a.png")]
    subprocess.run(command, check=True)


REFUSED = {
    "x_real": {"x_real": X[0, 0]},
    "x_generated": {"x_generated": X * np.nan},
    "per_class": {"per_class": 0},
    "channel": {"channel": 2},
    "path": {"path": "a.jpeg"},
    "labels_generated": {"labels_real": np.zeros(30)},
    "labels_real": {"labels_real": [1, 2], "labels_generated": [1] * 30},
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=case):
        real_beside_generated(**{"x_real": X, "x_generated": X} | REFUSED[case])


class TestAugmentedViews:
    def test_a_row_for_each_augmentation(self, tmp_path):
        figure = augmented_views(X, n=2, channel=1, path=tmp_path / "a.png")
        assert [title for title in titles(figure) if title] == list(AUGMENTATIONS)
        assert len(figure.axes) == 2 * len(AUGMENTATIONS)
        for axis in figure.axes:
            series, view = axis.lines
            scaled = (X[:, 1] - X[:, 1].mean()) / X[:, 1].std()
            assert np.abs(scaled[:2] - series.get_ydata()).max(1).min() < 1e-5
            assert view.get_ydata().shape == (16,)
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

    def test_a_row_of_all(self):
        figure = augmented_views(X, ["jitter", "flip"], n=1, seed=3)
        again = augmented_views(X, ["jitter", "flip"], n=1, seed=3)
        assert titles(figure) == ["jitter, then flip"]
        drawn = [f.axes[0].lines[1].get_ydata() for f in (figure, again)]
        np.testing.assert_array_equal(*drawn)

    @pytest.mark.parametrize(
        "how", [{"n": 0}, {"channel": 2}, {"seed": -1}, {"path": "a.gif"}, {"augmentations": ["x"]}]
    )
    def test_refused(self, how):
        with pytest.raises((ArgumentError, ArgumentTypeError), match=next(iter(how))):
            augmented_views(X, **how)

    def test_by_the_command_line(self, tmp_path, capsys):
        np.save(tmp_path / "x.npy", X)
        out = tmp_path / "views.svg"
        line = f"augment {tmp_path}/x.npy --out {out} --n 2 --augment slope time_mask"
        assert main(line.split()) == 0
        assert "2 series and their augmented views" in capsys.readouterr().out
        assert out.read_bytes().startswith(b"<?xml")


def test_folder_missing(tmp_path):
    with pytest.raises(FileError):
        real_beside_generated(X, X, path=tmp_path / "no" / "a.png")


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ArgumentError, match=r'pip install "tsgen\[viz\]"'):
        real_beside_generated(X, X)
