"""Real data sets for tests; a test that needs one skips where it is absent."""

from pathlib import Path

import pytest

from tsgen.formats import Collection, read

UCR = Path(__file__).parents[1].parent / "shared" / "data" / "ucr"


def folder(name: str) -> Path:
    """The folder of a set, or skip."""
    if not (UCR / name).is_dir():
        pytest.skip(f"needs the UCR set {name} in ../shared/data/ucr")
    return UCR / name


def load(name: str, split: str = "train") -> Collection:
    """One split ("train" or "test") of a set, or skip."""
    return read(folder(name), split=split)
