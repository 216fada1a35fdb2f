"""What every benchmark shares beyond `tsgen.measure`: the commit, and the results' files."""

import json
import subprocess
from pathlib import Path
from typing import Any

import tsgen.measure
from tsgen.measure import Run, interleaved, ratio, summary

__all__ = ["Run", "interleaved", "machine", "ratio", "said", "save", "summary"]

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def machine() -> dict[str, Any]:
    """What a reader needs to place a number, and the commit."""
    return tsgen.measure.machine() | {"commit": said("git", "describe", "--always", "--dirty")}


def said(*command: str) -> str:
    """What a command prints; nothing where there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def save(name: str, result: dict[str, Any]) -> Path:
    """Write results/<name>.json; what is there already under other keys stays."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | result, indent=1) + "\n")
    return path
