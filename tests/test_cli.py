"""The command line: what it prints, writes, refuses and returns."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tiny_models import tiny_model

from tsgen import bundled, commands, environment, formats, synthetic
from tsgen.cli import main
from tsgen.version import __version__

L = 32
NAMES = ("bell", "cylinder", "funnel")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, series with and without gaps, a data set in two files, a package folder."""
    folder = tmp_path_factory.mktemp("cli")
    model = tiny_model(length=L)
    model.save(folder / "work" / "model")
    x = np.concatenate([model.generate(20, label=name, seed=9) for name in NAMES])
    y = np.repeat(NAMES, 20)
    formats.write(folder / "work" / "data.npz", x, y)
    (folder / "work" / "set").mkdir()
    formats.write(folder / "work" / "set" / "D_TRAIN.ts", x[::2], y[::2])
    formats.write(folder / "work" / "set" / "D_TEST.ts", x[1::2], y[1::2])
    gaps = x[:5].copy()
    gaps[:, :, 10:20] = np.nan
    formats.write(folder / "work" / "gaps.csv", gaps)
    tiny_model(length=128).save(folder / "bundled" / "cbf")
    return folder


@pytest.fixture
def work(made, tmp_path, monkeypatch):
    """A copy of it to work in."""
    shutil.copytree(made / "work", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bundle(made, monkeypatch):
    monkeypatch.setattr(bundled, "FOLDER", made / "bundled")


def run(line, capsys):
    """Exit code, stdout, stderr."""
    try:
        code = main(line.split())
    except SystemExit as stopped:  # argparse
        code = stopped.code
    return code, *capsys.readouterr()


def tsgen(*words, **kwargs):
    command = [sys.executable, "-m", "tsgen", *words]
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


def test_process(work):
    done = tsgen("generate", "model", "70", "--label", "bell", "--out", "a.csv", "--seed", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("a.csv: 70 series in ")
    read = formats.read("a.csv")
    np.testing.assert_array_equal(read.X, tiny_model(length=L).generate(70, label="bell", seed=1))
    assert (read.y == "bell").all()
    done = tsgen("generate", "model", "70", "--out", "samples", "--label", "nobody")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tsgen: error: label: wanted one of 'bell'")
    assert done.stderr.count("\n") == 1


def test_help_and_version():
    done = tsgen("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"    {name} " in done.stdout for name in ("fit", "generate", "impute", "demo"))
    assert tsgen("--version").stdout == f"tsgen {__version__}\n"
    assert tsgen().returncode == 2


def test_nobody_reads_on(work):
    command = f"{sys.executable} -m tsgen inspect model | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


def test_folder_of_shards(work, capsys):
    line = "generate model 150 --out samples --shard-size 64 --format npy --seed 5 --steps 2 3"
    assert run(line, capsys)[0] == 0
    read = [formats.read(file).X for file in sorted((work / "samples").glob("samples-*"))]
    assert [len(x) for x in read] == [64, 64, 22]
    x = tiny_model(length=L).generate(150, seed=5, steps=(2, 3))
    np.testing.assert_array_equal(np.concatenate(read), x)
    assert run(line, capsys)[0] == 0
    code, _, error = run(line + " --top-k 3", capsys)
    assert code == 2
    assert "settings: " in error


def test_labels_take_turns(work, capsys):
    assert run("generate model 5 --out a.npz --label funnel bell", capsys)[0] == 0
    names = formats.read("a.npz").y.tolist()
    assert names == ["funnel", "bell", "funnel", "bell", "funnel"]
    x = tiny_model(length=L).generate(5, label=names)
    np.testing.assert_array_equal(formats.read("a.npz").X, x)
    assert run("generate model 4 --out a.npz --label 2", capsys)[0] == 0
    assert formats.read("a.npz").y.tolist() == ["funnel"] * 4


def test_impute(work, capsys):
    code, out, _ = run("impute model gaps.csv --out whole.npz --temperature 0.5", capsys)
    assert (code, out) == (0, "whole.npz: 50 values filled in, in 5 series\n")
    gaps, whole = formats.read("gaps.csv").X, formats.read("whole.npz").X
    known = ~np.isnan(gaps)
    np.testing.assert_array_equal(whole[known], gaps[known])
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(whole, tiny_model(length=L).impute(gaps, temperature=0.5))


@pytest.mark.parametrize("out", ["f.npz", "f.npy"])
def test_forecast(work, capsys, out):
    line = f"forecast model data.npz 8 --n 3 --out {out} --label bell"
    code, text, _ = run(line, capsys)
    assert (code, text) == (0, f"{out}: 3 futures of 8 samples for each of 60 series\n")
    read, data = formats.read(out), formats.read("data.npz")
    x = tiny_model(length=L).forecast(data.X, 8, 3, label="bell")
    np.testing.assert_array_equal(read.X, x.reshape(180, 1, 8))
    assert read.y is None or read.y.tolist() == np.repeat(np.arange(60), 3).astype(str).tolist()


def test_evaluate(work, capsys):
    code, out, _ = run("evaluate model set", capsys)
    assert code == 0
    fid, tstr = out.splitlines()
    assert fid.startswith("fid ")
    assert "(real data: " in tstr
    code, out, _ = run("evaluate model set --json --n 20", capsys)
    scores = json.loads(out)
    assert code == 0
    assert set(scores) == {"fid", "tstr"}
    assert scores["tstr"]["n_generated"] == 20
    tiny_model(length=L, names=()).save("unlabelled")
    code, out, _ = run("evaluate unlabelled set --json", capsys)
    assert set(json.loads(out)) == {"fid"}


def test_info(capsys, monkeypatch):
    code, out, _ = run("info", capsys)
    assert code == 0
    for text in (f"tsgen {__version__}", "torch ", "threads", "GPU: ", "* stft", "bundled models:"):
        assert text in out
    reason = "does not load: no libhappiness"
    monkeypatch.setitem(environment.dispatch.TABLE, "stft", {"torch": (environment.torch.float32,)})
    monkeypatch.setattr(environment.dispatch, "obstacle", lambda *cell: reason)
    assert f"stft                   torch    does not run: {reason}" in run("info", capsys)[1]


def test_inspect(work, capsys):
    code, out, _ = run("inspect model", capsys)
    assert code == 0
    assert "labels: bell, cylinder, funnel" in out
    assert "channel 0: mean 10, standard deviation 2" in out
    assert "series: 1 channels, 32 samples" in out
    config = json.loads(out.partition("config: ")[2])
    assert config["tokenizer"]["length"] == L


def test_fit(work, capsys):
    code, out, _ = run("fit set --out new --steps 2 3 --batch-size 8 --seed 1", capsys)
    assert code == 0
    assert "next: tsgen generate new 1000" in out
    log = [json.loads(line) for line in (work / "new/metrics.jsonl").read_text().splitlines()]
    assert {(line["stage"], line["step"]) for line in log} >= {("tokenizer", 2), ("prior_1", 3)}
    assert run("generate new 2 --out new.npz --label bell", capsys)[0] == 0
    code, _, error = run("fit set --out new --steps 2", capsys)
    assert code == 2
    assert "resume" in error


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--codebook fsq --levels 5 5", "tokens of 25 codes"),
        ("--codebook residual --n-quantisers 2 --gradient rotation", ", 2 x 1 x "),
        ("--bands 1 --n-codes 40 --orthogonal 3", "tokens of 40 codes"),
        ("--n-codes 24 40", "tokens of 40 codes"),
        ("--family vae", "places of 16 numbers for all"),
    ],
)
def test_fit_other_codes_and_families(work, capsys, words, line):
    assert run(f"fit set --out new --steps 1 --batch-size 8 {words}", capsys)[0] == 0
    assert line in run("inspect new", capsys)[1]
    assert run("generate new 3 --out new.npz --label bell", capsys)[0] == 0
    assert run("evaluate new set --n 20", capsys)[0] == 0
    assert "X" in np.load(work / "new.npz")


def test_labels_in_a_file(work, capsys):
    (work / "labels.txt").write_text("1\n" * 30 + "2\n" * 30)
    line = "fit data.npz --steps 1 --out new --labels"
    assert run(f"{line} labels.txt", capsys)[0] == 0
    assert "labels: 1, 2\n" in run("inspect new", capsys)[1]
    assert run(f"{line.replace('new', 'newer')} none", capsys)[0] == 0
    assert "labels: none\n" in run("inspect newer", capsys)[1]
    (work / "labels.txt").write_text("1\n" * 59)
    code, _, error = run(f"{line.replace('new', 'newest')} labels.txt", capsys)
    assert (code, "wanted 60 lines" in error) == (2, True)
    assert not (work / "newest").exists()


def test_demo(tmp_path, bundle, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("demo --out new/demo", capsys)
    assert code == 0
    assert "1,000 series of bell, cylinder, funnel" in out
    assert "next: tsgen generate cbf" in out
    read = formats.read("new/demo/series.npz")
    assert read.X.shape == (1000, 1, 128)
    assert set(read.y) == set(synthetic.GENERATORS["cbf"].classes)
    picture = tmp_path / "new/demo/real_beside_generated.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, _ = run("demo --out new/demo", capsys)
    assert code == 0
    assert 'pip install "tsgen[viz]"' in out
    assert not picture.exists()


REFUSED = {
    "": "required: COMMAND",
    "nonsense": "invalid choice: 'nonsense'",
    "generate model": "required: N, --out",
    "generate model x --out a.npz": "argument N: invalid int value: 'x'",
    "generate model -1 --out a.npz": "N: wanted a whole number from 0 on, got -1",
    "generate nobody 1 --out a.npz": "model: wanted a folder, or a bundled model",
    "generate set 1 --out a.npz": "config.json",
    "generate model 1 --out no/a.npz": "no/a.npz: wanted a file in a folder",
    "generate model 1 --out a.arff": "a.arff: wanted one of .npz",
    "generate model 1 --out a.npy --label bell": "labels: .npy holds series only",
    "generate model 1 --out a.npz --format csv": "--format, --shard-size: wanted none",
    "generate model 1 --out a --format tsv": "format: wanted one of 'npz'",
    "generate model 1 --out a.npz --steps 0": "steps: wanted a whole number from 1",
    "generate model 1 --out a.npz --top-p 2": "top_p: wanted",
    "generate model 1 --out a.npz --seed -1": "seed: wanted",
    "generate model 1 --out a.npz --device warp": "--device: wanted a device that is here",
    "generate model 1 --out a.npz --label nobody": "label: wanted one of",
    "impute model nobody.csv --out a.npz": "nobody.csv: no such file",
    "impute model gaps.csv --out no/a.npz": "wanted a file in a folder",
    "forecast model data.npz 1 --out a.npz": "HORIZON: wanted at least 2",
    "forecast model data.npz 32 --out a.npz": "horizon: wanted a whole number from 1 to 31",
    "forecast model data.npz 8 --n 0 --out a.npz": "n: wanted",
    "evaluate model data.npz": "X_train",
    "inspect data.npz": "wanted a folder, got a file",
    "fit data.npz --out a --steps 1 2 3": "steps: wanted a tuple of 2",
    "fit data.npz --out a --preset huge": "argument --preset: invalid choice",
    "fit gaps.csv --out a": "X: wanted finite numbers",
    "fit data.npz --out data.npz": "out: wanted a new or empty folder",
    "fit nobody --out a": "nobody: no such file",
    "fit data.npz --out a --labels nobody": "nobody: cannot be read",
    "demo --out data.npz": "data.npz",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused_in_one_line(work, bundle, capsys, line):
    before = sorted(work.iterdir())
    code, out, error = run(line, capsys)
    assert (code, out) == (2, "")
    last = error.splitlines()[-1]
    assert last.startswith("tsgen")
    assert "error: " in last
    assert REFUSED[line] in last
    assert sorted(work.iterdir()) == before


def test_unequal_lengths(work, capsys):
    formats.write("unequal.ts", np.ones((2, 1, 9)), lengths=[9, 7])
    code, _, error = run("fit unequal.ts --out new", capsys)
    assert code == 2
    assert "wanted series of one length, got 7 to 9 samples" in error


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (MemoryError, 2)])
def test_stopped(monkeypatch, capsys, error, code):
    def stop(args):
        raise error

    monkeypatch.setattr(commands, "info", stop)
    assert run("info", capsys)[0] == code


@pytest.mark.filterwarnings("default")
def test_warnings_are_lines(work, capsys):
    np.save("wide.npy", np.ones((3, 40, 4)))
    code, _, error = run("fit wide.npy --out wide --steps 1", capsys)
    assert code == 0
    assert error.splitlines()[0].startswith("tsgen: warning: X: more channels than time")
