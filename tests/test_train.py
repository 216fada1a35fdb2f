"""Training: it learns, stops, logs, and a killed run resumes to the very same weights."""

import itertools
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tsgen
from tsgen.config import Preset, PriorConfig
from tsgen.config_training import TrainConfig
from tsgen.errors import ArgumentError
from tsgen.log import Log, Progress
from tsgen.train import Stage, Trainer, batch_at, seeded, step_seed

SMALL = PriorConfig(embed_dim=16, hidden_dim=16, n_layers=1, n_heads=1, head_dim=16)
TINY = Preset(
    tokenizer={"hidden_dim": 16, "n_resblocks": 1, "restart_below": 0.05, "token_width": (4, 8)},
    priors=(SMALL, SMALL),
)


def series(n: int = 24, length: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two kinds of noisy waves, labelled."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    time_L = np.arange(length) / length
    wave = np.sin(2 * np.pi * (1 + 2 * y[:, None]) * time_L + rng.uniform(0, 6, (n, 1)))
    x = wave + 0.1 * rng.standard_normal((n, length))
    return x.astype(np.float32), np.array(["slow", "fast"])[y]


def weights(model: tsgen.Model) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in model.network.state_dict().items()}


def assert_same_weights(a: tsgen.Model, b: tsgen.Model) -> None:
    for name, tensor in weights(a).items():
        assert torch.equal(tensor, weights(b)[name]), name


def lines(folder: Path) -> list[dict]:
    whole = (folder / "metrics.jsonl").read_text().split("\n")[:-1]  # not one half written
    return [json.loads(text) for text in whole]


def test_learns_and_logs(tmp_path):
    X, y = series(n=120)
    model = tsgen.fit(X, y, preset=TINY, steps=(60, 60), evaluations=6, out=tmp_path / "run")
    log = lines(tmp_path / "run")
    for stage in ("tokenizer", "prior_0", "prior_1"):
        rows = [row for row in log if row["stage"] == stage]
        assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
        assert rows[-1]["validation"] < rows[0]["validation"]
    assert {"loss", "rate", "seconds"} <= set(log[0])
    assert model.generate(3, label="slow").shape == (3, 1, 32)
    assert_same_weights(model, tsgen.load(tmp_path / "run"))


@pytest.mark.parametrize("n", [2, 5, 20])
def test_a_handful_of_series_is_enough(n):
    X, _ = series(n)
    x = tsgen.fit(X, preset=TINY, steps=3).generate(4)
    assert np.isfinite(x).all()


def test_one_code_is_enough():
    X, _ = series(8)
    model = tsgen.fit(X, preset=TINY, n_codes=1, steps=2)
    assert (model.encode(X) == 0).all()
    assert (model.network.each_prior()[0].embed.codes_KD == 0).all()
    assert np.isfinite(model.generate(2)).all()


def test_the_same_call_gives_the_same_weights_and_leaves_every_generator_alone():
    X, y = series()
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first = tsgen.fit(X, y, preset=TINY, steps=4)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]
    torch.manual_seed(2)
    assert_same_weights(first, tsgen.fit(X, y, preset=TINY, steps=4))


RUN = """
import sys, torch
sys.path.insert(0, {tests!r})
import tsgen
from killed import kill_at
from test_train import TINY, series
torch.set_num_threads(1)
kill_at({out!r}, {n_steps})
X, y = series(n=120)
how = dict(preset=TINY, steps=24, evaluations=12, seed=3, ssl="byol")  # the most there is to keep
tsgen.fit(X, y, out={out!r}, resume=True, **how)
"""


def test_killed_runs_resume_to_the_same_weights(tmp_path):
    """kill -9 in every stage, again and again, wherever the run happens to be."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    here = str(Path(__file__).parent)

    def run(out, n_steps):
        code = RUN.format(tests=here, out=str(out), n_steps=n_steps)
        return subprocess.run([sys.executable, "-c", code], check=False).returncode

    assert run(whole, n_steps=10**9) == 0
    rng, stages = random.Random(0), set()
    for _ in range(30):  # about 8 are enough
        code = run(killed, n_steps=rng.randint(20, 120))
        if code != -signal.SIGKILL:
            break
        stages |= {row["stage"] for row in lines(killed)[-1:]}
    assert code == 0
    assert len(stages) == 3
    assert_same_weights(tsgen.load(whole), tsgen.load(killed))
    place = [(row["stage"], row["step"], row["loss"]) for row in lines(killed)]
    assert place == [(row["stage"], row["step"], row["loss"]) for row in lines(whole)]


def test_resuming_needs_the_same_data_and_settings(tmp_path):
    X, y = series()
    tsgen.fit(X, y, preset=TINY, steps=4, out=tmp_path)
    wanted = "resume: wanted the data and settings .*, got others, .* another version of tsgen"
    with pytest.raises(ArgumentError, match=wanted):
        tsgen.fit(X + 1, y, preset=TINY, steps=4, out=tmp_path, resume=True)
    with pytest.raises(ArgumentError, match="out: wanted a new or empty folder"):
        tsgen.fit(X, y, preset=TINY, steps=4, out=tmp_path)


def test_resuming_a_finished_run_gives_its_model(tmp_path):
    X, y = series()
    model = tsgen.fit(X, y, preset=TINY, steps=4, out=tmp_path)
    assert_same_weights(model, tsgen.fit(X, y, preset=TINY, steps=4, out=tmp_path, resume=True))


def test_a_budget_in_minutes_becomes_one_in_steps(tmp_path):
    X, _ = series()
    tsgen.fit(X, preset=TINY, minutes=0.05, out=tmp_path)
    assert {row["stage"] for row in lines(tmp_path)} == {"tokenizer", "prior_0", "prior_1"}


class Line(torch.nn.Module):
    """Something with one weight to train."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))


def trainer(validate, **settings) -> Trainer:
    module = Line()

    def loss(index):
        return (module.weight - 1).square().sum(), dict

    stage = Stage("line", module, 10, loss, validate, False, 0.1, 100, 1.0)

    return Trainer(stage, TrainConfig(**settings), Log(None), lambda trainer: None)


def test_stops_early_and_keeps_the_best_weights():
    seen = []

    def validate(module):  # best at the third look, worse ever after
        seen.append(float(module.weight.detach()))
        return abs(len(seen) - 3)

    run = trainer(validate, evaluations=50, patience=5)
    run.run(shown=False)
    assert len(seen) == 8
    assert float(run.stage.module.weight.detach()) == seen[2]


def test_rate_warms_up_and_falls():
    run = trainer(None, warm_up=0.1, final_rate=0.5)
    rates = []
    for step in range(100):
        run.progress = Progress(step=step, total=100)
        rates.append(run.rate())
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(0.1)
    assert np.argmax(rates) in (9, 10)
    assert rates[-1] == pytest.approx(0.05, rel=1e-2)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_batches_cover_every_series_once_an_epoch():
    batches = [batch_at(step, 8, 20, seed=0, stage="a") for step in range(5)]
    seen = torch.cat(batches)
    assert sorted(seen[:20].tolist()) == list(range(20))
    assert sorted(seen[20:].tolist()) == list(range(20))
    assert not torch.equal(seen[:20], seen[20:])


def test_seeds_differ_by_place_and_are_undone():
    assert step_seed(0, "a", 1) != step_seed(0, "a", 2)
    before = torch.get_rng_state()
    with seeded(0, "x"):
        first = torch.rand(3)
    with seeded(0, "x"):
        assert torch.equal(first, torch.rand(3))
    assert torch.equal(before, torch.get_rng_state())
