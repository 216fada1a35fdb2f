"""What an import leaves behind: nothing, and nothing heavy."""

import subprocess
import sys

import pytest

import tsgen


def run(code):
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_torch_waits_until_it_is_needed():
    run(
        "import sys, tsgen, tsgen.cli; tsgen.cli.parser().format_help()\n"
        "loaded = {'torch', 'numpy', 'scipy', 'pandas', 'matplotlib', 'pyarrow'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )


HEAVY = """
import sys, torch
before = set(sys.modules)
import tsgen, tsgen.viz, tsgen.formats, tsgen.metrics, tsgen.synthetic
for name in tsgen.__all__:
    getattr(tsgen, name)
heavy = {"pandas", "matplotlib", "pyarrow", "torch._dynamo", "triton", "sympy", "timevqvae"}
loaded = (set(sys.modules) - before) & heavy
assert not loaded, loaded
"""


def test_nothing_heavy():
    run(HEAVY)


STATE = """
import os, random, sys, threading, warnings
import numpy as np, torch

def state():
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": str(np.random.get_state()),
        "random": random.getstate(),
        "filters": list(warnings.filters),
        "threads": (torch.get_num_threads(), threading.active_count()),
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "errors": np.geterr(),
        "environment": dict(os.environ),
        "path": list(sys.path),
    }

before = state()
import tsgen, tsgen.viz, tsgen.cli, tsgen.commands
for name in tsgen.__all__:
    getattr(tsgen, name)
after = state()
changed = [key for key in before if before[key] != after[key]]
assert not changed, changed
"""


def test_global_state_is_left_alone():
    run(STATE)


@pytest.mark.parametrize(
    "first",
    [
        "import tsgen.fit",
        "from tsgen.fit import Run",
        "from tsgen import fit",
        "from tsgen import *",
        "import tsgen.commands",
        "import tsgen",
    ],
)
def test_fit_is_the_function(first):
    run(f"{first}\nimport tsgen\nassert type(tsgen.fit).__name__ == 'function'")


def test_names():
    assert {"fit", "generate", "load", "metrics", "stream", "synthetic"} <= set(dir(tsgen))
    assert tsgen.data.Labels is sys.modules["tsgen.labels"].Labels
    assert issubclass(tsgen.TsgenError, Exception)
    with pytest.raises(AttributeError, match="no attribute 'nobody'"):
        _ = tsgen.nobody
