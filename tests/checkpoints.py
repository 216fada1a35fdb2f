"""Checkpoints that show whether they are whole."""

import torch

from tsgen.checkpoint import CONFIG, WEIGHTS, read_folder

PLAIN = {CONFIG, WEIGHTS}


def same(a, b):
    """Whether two dicts of tensors are equal to the bit."""
    return a.keys() == b.keys() and all(
        (a[k].shape, a[k].dtype) == (b[k].shape, b[k].dtype)
        and torch.equal(a[k].reshape(-1).view(torch.uint8), b[k].reshape(-1).view(torch.uint8))
        for k in a
    )


def version(i, n=1000):
    """A checkpoint that shows if it was mixed with another."""
    return {"version": i}, {"x": torch.full((n,), float(i)), "i": torch.tensor(i)}


def version_of(path):
    """Which one is there; fails unless it is whole."""
    config, tensors = read_folder(path, kind="model")
    i = config["version"]
    assert tensors["i"] == i
    assert (tensors["x"] == i).all()
    return i


def names(path):
    return {file.name for file in path.iterdir()}
