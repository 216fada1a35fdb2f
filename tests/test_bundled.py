"""The models that come along: they load, they are small, and what they make is of its class."""

import numpy as np
import pytest

import tsgen
from tsgen import bundled
from tsgen.metrics import ridge_accuracy
from tsgen.synthetic import GENERATORS

LARGEST = 4_000_000  # bytes


def test_some_are_there():
    assert "cbf" in bundled.names()
    assert set(bundled.names()) <= set(GENERATORS)


@pytest.mark.parametrize("name", bundled.names())
def test_is_small_and_makes_every_class(name):
    folder = bundled.FOLDER / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < LARGEST
    generator = GENERATORS[name]
    label = np.resize(np.array(generator.classes), 128)
    x = tsgen.generate(name, len(label), label=label, seed=0)
    assert x.shape == (len(label), generator.channels, generator.length)
    assert np.isfinite(x).all()
    real, y = generator.make(600, seed=7)
    accuracy = ridge_accuracy(real, np.array(generator.classes)[y], x, label)
    assert accuracy > 0.9
