"""Training on a GPU: the same to the bit, in step with the CPU, and without waiting."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stages import PRESETS, STAGES, follow, run, take, trainer
from test_train import TINY, assert_same_weights, lines, series

import tsgen


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        if "cuda" in os.environ.get("TSGEN_REQUIRE", "").split(","):
            pytest.fail("TSGEN_REQUIRE names cuda, but there is no GPU")
        pytest.skip("needs a GPU")
    return "cuda"


class TestOnAGpu:
    def test_the_model_stays_there_and_samples_there(self, gpu, tmp_path):
        X, y = series()
        model = tsgen.fit(X, y, preset=TINY, steps=3, out=tmp_path)
        assert model.device.type == gpu
        x = model.generate(5, label="slow")
        assert np.isfinite(x).all()
        assert np.isfinite(tsgen.load(tmp_path).generate(5)).all()

    @pytest.mark.parametrize("autocast", [None, "bfloat16"])
    @pytest.mark.parametrize("preset", PRESETS)
    def test_two_runs_are_the_same_to_the_bit(self, preset, autocast, gpu):
        X, y = series(n=120)
        how = {"preset": PRESETS[preset], "steps": 10, "autocast": autocast, "device": gpu}
        assert_same_weights(tsgen.fit(X, y, **how), tsgen.fit(X, y, **how))

    @pytest.mark.parametrize("preset", PRESETS)
    def test_steps_are_those_of_the_cpu(self, preset, gpu):
        ours, cpu = run(preset, device=gpu), run(preset)
        for stage in STAGES:
            follow(ours, cpu, stage)
            a, b = trainer(cpu, stage), trainer(ours, stage)
            assert take(b, 3) == pytest.approx(take(a, 3), rel=1e-2)

    @pytest.mark.parametrize("autocast", [None, "bfloat16"])
    def test_a_step_never_waits(self, autocast, gpu):
        work = run("base", device=gpu, autocast=autocast)
        for stage in STAGES:
            made = trainer(work, stage)
            take(made, 3)
            torch.cuda.set_sync_debug_mode("error")
            try:
                made.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")

    def test_every_op_has_a_deterministic_form(self, gpu):
        code = DETERMINISTIC.format(tests=HERE, device=gpu)
        # read by PyTorch at the first product of a process
        environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)

    @pytest.mark.parametrize("first", ["cpu", "cuda"])
    def test_a_run_goes_on_on_the_other_device(self, first, gpu, tmp_path):
        X, y = series(n=120)
        how = {"preset": TINY, "steps": (24, 24), "evaluations": 12, "out": tmp_path}
        code = KILLED.format(tests=HERE, out=str(tmp_path), device=first)
        done = subprocess.run([sys.executable, "-c", code], check=False)
        assert done.returncode == -signal.SIGKILL
        other = {"cpu": "cuda", "cuda": "cpu"}[first]
        model = tsgen.fit(X, y, **how, device=other, resume=True, seed=3)
        assert model.device.type == other
        assert {row["stage"] for row in lines(tmp_path)} == set(STAGES)

    def test_compiles(self, gpu):
        plain, compiled = run(device=gpu), run(device=gpu, compile=True)
        for stage in STAGES:
            follow(compiled, plain, stage)
            a, b = trainer(plain, stage), trainer(compiled, stage)
            assert take(b, 3) == pytest.approx(take(a, 3), rel=1e-2)


HERE = str(Path(__file__).parent)

DETERMINISTIC = """
import sys, torch
sys.path.insert(0, {tests!r})
import tsgen
from test_train import TINY, series
torch.use_deterministic_algorithms(True)
X, y = series()
assert tsgen.fit(X, y, preset=TINY, steps=3, device={device!r}).device.type == {device!r}
"""

KILLED = """
import sys
sys.path.insert(0, {tests!r})
import tsgen
from killed import kill_at
from test_train import TINY, series
kill_at({out!r}, 60)
X, y = series(n=120)
how = dict(preset=TINY, steps=(24, 24), evaluations=12, out={out!r}, device={device!r}, seed=3)
tsgen.fit(X, y, **how)
"""
