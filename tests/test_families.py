"""Every codebook and family through a run: killed and resumed, and on real data."""

import numpy as np
import pytest
from test_train import TINY, assert_same_weights, series
from ucr import load

import tsgen
from tsgen import metrics, run

KINDS = pytest.mark.parametrize(
    "how",
    [{"codebook": "fsq"}, {"codebook": "residual", "gradient": "rotation"}, {"family": "vae"}],
    ids=["fsq", "residual", "vae"],
)


class Killed(BaseException):
    """What ends a run from outside."""


def killed_at(n, monkeypatch):
    """A run dies once it has saved its state n times."""
    left, save_state = iter([*[False] * (n - 1), True]), run.save_state

    def dying(*given):
        save = save_state(*given)

        def saved(trainer):
            save(trainer)
            if next(left, False):
                raise Killed

        return saved

    monkeypatch.setattr(run, "save_state", dying)


@KINDS
def test_a_killed_run_resumes_to_the_same_weights(how, tmp_path, monkeypatch):
    X, y = series()
    shared = {"preset": TINY, "steps": (6, 4), "evaluations": 3, "seed": 3} | how
    whole = tsgen.fit(X, y, **shared)
    killed_at(2, monkeypatch)
    with pytest.raises(Killed):
        tsgen.fit(X, y, out=tmp_path, **shared)
    assert_same_weights(whole, tsgen.fit(X, y, out=tmp_path, resume=True, **shared))


@KINDS
def test_gunpoint_from_end_to_end(how):
    train, test = load("GunPoint"), load("GunPoint", "test")
    model = tsgen.fit(train.X, train.y, steps=(3, 2), batch_size=16, **how)
    x = model.generate(len(train.X), label=train.y)
    assert x.shape == (50, 1, 150)
    scores = metrics.evaluate(x, train.y, train.X, train.y, test.X, test.y)
    assert all(np.isfinite(score.value) for score in scores.values())
