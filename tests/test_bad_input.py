"""Whatever is wrong is refused at the door: a TsgenError that names the argument, what was wanted
and what came, within a second, and nothing is written.
"""

import numpy as np
import pytest
import torch
from tiny_models import smooth_series, tiny_config, tiny_model

import tsgen
from tsgen.config import ModelConfig, PriorConfig, SamplingConfig, TokenizerConfig
from tsgen.data import Scaler
from tsgen.errors import ArgumentError, ArgumentTypeError, FileError, TsgenError

NAN, INF = float("nan"), float("inf")
X = smooth_series(6, 1, 24)
MODEL = tiny_model()
N_TOKENS = MODEL.encode(X).shape[1]


def with_value(value, *place):
    """X with one value replaced."""
    out = X.copy()
    out[place] = value
    return out


def generate(*args, **kwargs):
    return lambda: MODEL.generate(*(args or (3,)), **kwargs)


def stream(**kwargs):
    return lambda: MODEL.stream(**{"n": 3} | kwargs)  # refused before it is read


def impute(x, **kwargs):
    return lambda: MODEL.impute(x, **kwargs)


def forecast(history=X, horizon=8, **kwargs):
    return lambda: MODEL.forecast(history, horizon, **kwargs)


def encode(x, **kwargs):
    return lambda: MODEL.encode(x, **kwargs)


def decode(ids):
    return lambda: MODEL.decode(ids)


# what is done, the name at the front of the message, what else the message says
CASES = {
    "generate: neither n nor indices": (lambda: MODEL.generate(), "n", "neither"),
    "generate: both n and indices": (generate(3, indices=[1]), "n", "both"),
    "generate: n below 0": (generate(-1), "n", "from 0 on, got -1"),
    "generate: n a float": (generate(3.0), "n", "whole number, got float"),
    "generate: n a bool": (generate(True), "n", "got bool"),
    "generate: n as text": (generate("3"), "n", "got str"),
    "generate: n beyond all memory": (generate(2**50), "n", "1125899906842624"),
    "generate: n beyond 64 bits": (generate(2**64), "n", "18446744073709551616"),
    "generate: indices below 0": (lambda: MODEL.generate(indices=[3, -1]), "indices", "-1"),
    "generate: indices too large": (lambda: MODEL.generate(indices=[2**62]), "indices", "2.*62"),
    "generate: indices as floats": (lambda: MODEL.generate(indices=[1.5]), "indices", "float64"),
    "generate: indices nested": (lambda: MODEL.generate(indices=[[1]]), "indices", r"\(1, 1\)"),
    "generate: indices ragged": (lambda: MODEL.generate(indices=[[1], [2, 3]]), "indices", "whole"),
    "generate: indices one number": (lambda: MODEL.generate(indices=3), "indices", r"\(\)"),
    "generate: indices as bools": (lambda: MODEL.generate(indices=[True]), "indices", "bool"),
    "generate: seed below 0": (generate(seed=-1), "seed", r"2\*\*64 - 1, got -1"),
    "generate: seed of 65 bits": (generate(seed=2**64), "seed", "got 18446744073709551616"),
    "generate: seed a float": (generate(seed=1.0), "seed", "got float"),
    "generate: seed None": (generate(seed=None), "seed", "got NoneType"),
    "generate: label unknown": (generate(label="tower"), "label", "'bell'.*'tower'"),
    "generate: label index too high": (generate(label=3), "label", r"0\.\.2, got '3'"),
    "generate: label index below 0": (generate(label=-1), "label", "'-1'"),
    "generate: label NaN": (generate(label=NAN), "label", "nan"),
    "generate: label a fraction": (generate(label=0.5), "label", "0.5"),
    "generate: label of no kind": (generate(label=object()), "label", "object"),
    "generate: labels too few": (generate(label=["bell"]), "label", "3 labels.*got 1"),
    "generate: labels in two dimensions": (generate(label=[[0, 1, 2]]), "label", r"\(1, 3\)"),
    "generate: labels of a model without": (
        lambda: tiny_model(names=()).generate(1, label=0),
        "label",
        "None.*got 0",
    ),
    "generate: steps 0": (generate(steps=0), "steps", "0"),
    "generate: steps a fraction": (generate(steps=2.5), "steps", "2.5"),
    "generate: steps a bool": (generate(steps=True), "steps", "True"),
    "generate: steps too many": (generate(steps=65536), "steps", "65535.*65536"),
    "generate: steps of three bands": (generate(steps=(1, 2, 3)), "steps", r"\(1, 2, 3\)"),
    "generate: steps as text": (generate(steps="ten"), "steps", "ten"),
    "generate: temperature below 0": (generate(temperature=-0.1), "temperature", "-0.1"),
    "generate: temperature NaN": (generate(temperature=NAN), "temperature", "nan"),
    "generate: temperature infinite": (generate(temperature=INF), "temperature", "inf"),
    "generate: temperature None": (generate(temperature=None), "temperature", "None"),
    "generate: choice temperature below 0": (
        generate(choice_temperature=(1, -1)),
        "choice_temperature",
        "-1",
    ),
    "generate: choice temperature NaN": (
        generate(choice_temperature=NAN),
        "choice_temperature",
        "nan",
    ),
    "generate: guidance NaN": (generate(guidance=NAN), "guidance", "nan"),
    "generate: guidance a bool": (generate(guidance=True), "guidance", "True"),
    "generate: guidance as text": (generate(guidance="2"), "guidance", "'2'"),
    "generate: top_k below 0": (generate(top_k=-1), "top_k", "-1"),
    "generate: top_k a fraction": (generate(top_k=2.5), "top_k", "2.5"),
    "generate: top_p 0": (generate(top_p=0), "top_p", "0"),
    "generate: top_p above 1": (generate(top_p=1.01), "top_p", "1.01"),
    "generate: top_p NaN": (generate(top_p=NAN), "top_p", "nan"),
    "generate: schedule unknown": (generate(schedule="fast"), "schedule", "'cosine'.*'fast'"),
    "generate: schedule an array": (generate(schedule=np.arange(2)), "schedule", "array"),
    "generate: a setting that is none": (generate(step=3), "settings", "steps.*got step"),
    "generate: batch size 0": (generate(batch_size=0), "batch_size", "from 1 on, got 0"),
    "generate: batch size a float": (generate(batch_size=8.0), "batch_size", "got float"),
    "stream: n below 0": (stream(n=-1), "n", "-1"),
    "stream: batch size below 0": (stream(batch_size=-5), "batch_size", "-5"),
    "stream: batch size as text": (stream(batch_size="8"), "batch_size", "str"),
    "stream: label unknown": (stream(label="tower"), "label", "tower"),
    "stream: steps 0": (stream(steps=0), "steps", "0"),
    "impute: too short": (impute(X[:, :, :20]), "x", r"\(n, 1, 24\), got \(6, 1, 20\)"),
    "impute: too many channels": (impute(np.ones((2, 2, 24))), "x", r"got \(2, 2, 24\)"),
    "impute: infinite": (impute(with_value(INF, 2, 0, 5)), "x", r"1 infinite.*\[2, 0, 5\]"),
    "impute: one series alone": (impute(X[0, 0]), "x", r"1-D \(24,\).*x\[None\]"),
    "impute: text": (impute(np.array([["a"] * 24])), "x", "<U1"),
    "impute: complex": (impute(X * 1j), "x", "complex"),
    "impute: nothing": (impute(None), "x", "NoneType"),
    "impute: layout unknown": (impute(X, layout="tcn"), "layout", "'tcn'"),
    "impute: labels too many": (impute(X, label=[0] * 7), "label", "6 labels.*got 7"),
    "forecast: horizon 0": (forecast(horizon=0), "horizon", "0"),
    "forecast: horizon the whole length": (forecast(horizon=24), "horizon", "23, got 24"),
    "forecast: horizon a float": (forecast(horizon=8.0), "horizon", "float|8.0"),
    "forecast: n 0": (forecast(n=0), "n", "got 0"),
    "forecast: no series": (forecast(X[:0]), "history", r"\(0, 1, 24\)"),
    "forecast: infinite": (forecast(with_value(-INF, 0, 0, 0)), "history", "1 infinite"),
    "forecast: other channels": (forecast(np.ones((2, 3, 24))), "history", "1 channels, got 3"),
    "forecast: labels too few": (forecast(label=["bell"]), "label", "6 labels.*got 1"),
    "encode: NaN": (encode(with_value(NAN, 1, 0, 3)), "x", r"1 NaN.*\[1, 0, 3\]"),
    "encode: too large for float32": (encode(np.full((1, 24), 1e39)), "x", "24 too large"),
    "encode: objects": (encode(np.array([[object()] * 24])), "x", "object"),
    "encode: bools": (encode(np.ones((2, 24), bool)), "x", "bool"),
    "encode: four dimensions": (encode(X[None]), "x", "4-D"),
    "encode: another length": (encode(np.ones((2, 25))), "x", r"got \(2, 1, 25\)"),
    "encode: unequal lengths": (encode([np.ones(24), np.ones(23)]), "x", "23 to 24"),
    "encode: a sparse tensor": (encode(torch.eye(24).to_sparse()), "x", "sparse"),
    "decode: floats": (decode(np.zeros((2, N_TOKENS))), "ids", "float64"),
    "decode: too few tokens": (decode([[0, 1]]), "ids", rf"\(n, {N_TOKENS}\), got \(1, 2\)"),
    "decode: one series alone": (decode([0] * N_TOKENS), "ids", "got"),
    "decode: id below 0": (decode([[-1] * N_TOKENS]), "ids", "0 to 11 in band 0, got -1"),
    "decode: the mask's id": (decode([[12] * N_TOKENS]), "ids", "0 to 11 in band 0, got 12"),
    "decode: ragged": (decode([[1, 2], [3]]), "ids", r"\(n, \d+\)"),
    "decode: nothing": (decode(None), "ids", "whole numbers"),
    "Scaler: infinite": (lambda: Scaler((0.0,), (INF,)), "std", "finite.*inf"),
    "Scaler: std 0": (lambda: Scaler((0.0,), (0.0,)), "std", "positive"),
    "Scaler: unequal": (lambda: Scaler((0.0,), (1.0, 1.0)), "std", "1 positive"),
    "Scaler: nothing known": (lambda: Scaler.fit(X * NAN), "X", "only NaN in channel 0"),
    "Scaler: other channels": (lambda: Scaler((0.0,) * 2, (1.0,) * 2).apply(X), "x", "2 channels"),
    "config: bands": (lambda: TokenizerConfig(1, 24, bands=3), "bands", "3"),
    "config: length 1": (lambda: TokenizerConfig(1, 1), "length", "1"),
    "config: channels a fraction": (lambda: TokenizerConfig(1.5, 24), "n_channels", "1.5"),
    "config: one width": (lambda: TokenizerConfig(1, 24, token_width=8), "token_width", "8"),
    "config: dropout 1": (lambda: TokenizerConfig(1, 24, dropout=1), "dropout", "1"),
    "config: dropout as text": (lambda: TokenizerConfig(1, 24, dropout="x"), "dropout", "'x'"),
    "config: no layers": (lambda: PriorConfig(n_layers=0), "n_layers", "0"),
    "config: one number of steps": (lambda: SamplingConfig(steps=10), "steps", "10"),
    "config: classes": (lambda: tiny_config(n_classes=2.5), "n_classes", "2.5"),
    "config: priors": (
        lambda: ModelConfig(TokenizerConfig(1, 24), (PriorConfig(),)),
        "priors",
        "2, one a band",
    ),
    "config: unknown field": (
        lambda: ModelConfig.from_dict(MODEL.config.to_dict() | {"speed": 9}),
        "config",
        "speed",
    ),
    "config: not even a dict": (
        lambda: ModelConfig.from_dict({"tokenizer": 3}),
        "config",
        "fields",
    ),
    "load: no path": (lambda: tsgen.load(None), "model", "a path, got NoneType"),
    "save: no path": (lambda: MODEL.save(None), "path", "NoneType"),
    "save: a NUL": (lambda: MODEL.save("a\0b"), "path", "NUL"),
}

FIT_CASES = {
    "NaN": ({"X": with_value(NAN, 0, 0, 0)}, "X", r"1 NaN.*\[0, 0, 0\]"),
    "infinite": ({"X": with_value(INF, 0, 0, 0)}, "X", "1 infinite"),
    "no series": ({"X": X[:0]}, "X", "at least 1 series"),
    "no channels": ({"X": X[:, :0]}, "X", "1 channel"),
    "one time step": ({"X": X[:, :, :1]}, "X", "2 time steps"),
    "one series alone": ({"X": X[0, 0]}, "X", "1-D"),
    "objects": ({"X": X.astype(object)}, "X", "object"),
    "text": ({"X": "series.tsv"}, "X", "str"),
    "no array": ({"X": None}, "X", "NoneType"),
    "layout": ({"layout": "ctn"}, "layout", "'ctn'"),
    "labels too few": ({"y": [0, 1]}, "label", "6 labels.*got 2"),
    "labels missing": ({"y": [0, 1, 0, 1, 0, None]}, "y", "missing"),
    "labels NaN": ({"y": [0, 1, 0, 1, 0, NAN]}, "y", "nan"),
    "labels fractions": ({"y": [0.5] * 6}, "y", "0.5"),
    "labels in two dimensions": ({"y": [[0]] * 6}, "y", r"\(6, 1\)"),
    "preset": ({"preset": "tiny"}, "preset", "'base'.*'tiny'"),
    "preset of no kind": ({"preset": 5}, "preset", "5"),
    "bands": ({"bands": 3}, "bands", "3"),
    "bands a bool": ({"bands": True}, "bands", "True"),
    "window of 1": ({"n_fft": 1}, "n_fft", "1"),
    "window a fraction": ({"n_fft": 4.5}, "n_fft", "4.5"),
    "window beyond reason": ({"n_fft": 10**7}, "n_fft", "10000000"),
    "codes 0": ({"n_codes": 0}, "n_codes", "0"),
    "codes a fraction": ({"n_codes": 32.5}, "n_codes", "32.5"),
    "codes of three bands": ({"n_codes": (8, 8, 8)}, "n_codes", r"\(8, 8, 8\)"),
    "codes beyond reason": ({"n_codes": 10**12}, "n_codes", "1000000000000"),
    "steps 0": ({"steps": 0}, "steps", "0"),
    "steps a fraction": ({"steps": 2.5}, "steps", "2.5"),
    "steps of three stages": ({"steps": (1, 2, 3)}, "steps", r"\(1, 2, 3\)"),
    "steps as text": ({"steps": "many"}, "steps", "many"),
    "minutes 0": ({"minutes": 0}, "minutes", "0"),
    "minutes NaN": ({"minutes": NAN}, "minutes", "nan"),
    "batch size 0": ({"batch_size": 0}, "batch_size", "0"),
    "batch size a fraction": ({"batch_size": 8.5}, "batch_size", "8.5"),
    "learning rate 0": ({"learning_rate": 0}, "learning_rate", "0"),
    "learning rate NaN": ({"learning_rate": NAN}, "learning_rate", "nan"),
    "learning rate as text": ({"learning_rate": ("a", "b")}, "learning_rate", "a"),
    "warm-up": ({"warm_up": "long"}, "warm_up", "long"),
    "validation of all": ({"validation": 1.0}, "validation", "1.0"),
    "validation None": ({"validation": None}, "validation", "None"),
    "clip": ({"clip": "no"}, "clip", "no"),
    "seed below 0": ({"seed": -1}, "seed", "-1"),
    "seed a bool": ({"seed": True}, "seed", "True"),
    "a setting that is none": ({"epochs": 3}, "training", "steps.*got epochs"),
}


def assert_refused(action, name, detail):
    """Typed, and in the words `name: wanted ..., got ...`."""
    with pytest.raises(TsgenError) as caught:
        action()
    assert isinstance(caught.value, ArgumentError | ArgumentTypeError | FileError)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert len(message) < 2000
    with pytest.raises(TsgenError, match=rf"^({name})(\[.*\])?: wanted .*"):
        raise caught.value
    with pytest.raises(TsgenError, match=detail):
        raise caught.value


@pytest.mark.parametrize("case", CASES)
def test_is_refused_at_the_door(case):
    assert_refused(*CASES[case])


@pytest.mark.parametrize("case", FIT_CASES)
def test_fit_refuses_it_and_writes_nothing(case, tmp_path):
    changes, name, detail = FIT_CASES[case]
    given = {"X": X, "steps": 1, "out": tmp_path / "run"} | changes
    if "minutes" in changes:
        del given["steps"]
    assert_refused(lambda: tsgen.fit(**given), name, detail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("out", "detail"), [(5, "got int"), ("a\0b", "NUL"), ("", "''")])
def test_fit_refuses_what_is_no_folder(out, detail):
    assert_refused(lambda: tsgen.fit(X, steps=1, out=out), "out", detail)


def test_fit_refuses_a_folder_in_use_and_leaves_it_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert_refused(lambda: tsgen.fit(X, steps=1, out=tmp_path), "out", "has something in it")
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    assert_refused(lambda: tsgen.fit(X, steps=1, out=tmp_path / "notes.txt"), "out", "something")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_fit_cannot_resume_nowhere():
    assert_refused(lambda: tsgen.fit(X, steps=1, resume=True), "resume", "True")


def test_no_array_is_changed_by_being_refused():
    x = with_value(NAN, 1, 0, 3)
    before = x.copy()
    for use in (MODEL.encode, MODEL.impute, tsgen.fit):
        with pytest.raises(TsgenError):
            use(x, layout="other")
    np.testing.assert_array_equal(x, before)


def test_there_are_many_cases():
    assert len(CASES) + len(FIT_CASES) >= 60
