"""What an import leaves behind: nothing, and nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

import tsgen


def run(code):
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


LIGHT = """
import sys, tsgen, tsgen.cli
tsgen.cli.parser().format_help()
loaded = {"torch", "numpy", "scipy", "pandas", "matplotlib", "pyarrow"} & set(sys.modules)
assert not loaded, loaded
"""


def test_torch_waits_until_it_is_needed():
    run(LIGHT)


EVERYTHING = """
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

modules, before = set(sys.modules), state()
import tsgen, tsgen.cli, tsgen.commands, tsgen.viz
for name in tsgen.__all__:
    getattr(tsgen, name)
after = state()
changed = [key for key in before if before[key] != after[key]]
heavy = {"pandas", "matplotlib", "pyarrow", "torch._dynamo", "triton", "sympy", "timevqvae"}
loaded = (set(sys.modules) - modules) & heavy
assert not changed and not loaded, (changed, loaded)
"""


def test_everything_imported_changes_nothing_and_loads_nothing_heavy():
    run(EVERYTHING)


def test_names():
    assert {"fit", "generate", "load", "metrics", "stream", "synthetic"} <= set(dir(tsgen))
    assert tsgen.data.Labels is sys.modules["tsgen.labels"].Labels
    assert issubclass(tsgen.TsgenError, Exception)
    with pytest.raises(AttributeError, match="no attribute 'nobody'"):
        _ = tsgen.nobody


def test_an_install_has_every_file(tmp_path):
    """An editable one, as tests have, would not miss a package that setup.py forgets."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    command += ["build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    installed = {str(path.relative_to(tmp_path / "lib")) for path in tmp_path.glob("lib/**/*.*")}
    kept = {".py", ".typed", ".json", ".safetensors"}
    wanted = {path for path in root.glob("tsgen/**/*") if path.suffix in kept}
    names = {str(path.relative_to(root)) for path in wanted}
    names |= {f"tsgen/{path.relative_to(root)}" for path in root.glob("kernels/*.py")}
    assert {name for name in installed if not name.endswith(".pyc")} == names
