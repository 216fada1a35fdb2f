"""The trained models that come with tsgen, and every other way to name a model."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from tsgen import arguments
from tsgen.errors import bad_value
from tsgen.model import Model

FOLDER = Path(__file__).with_name("bundled")


def names() -> tuple[str, ...]:
    """Names of the bundled models, sorted."""
    return tuple(sorted(config.parent.name for config in FOLDER.glob("*/config.json")))


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model. Nothing in it is executed.

    path:     a bundled model's name, or a folder that Model.save wrote; a name wins over a folder
              of that name, which "./name" means
    returns:  Model on the CPU, the caller's own
    raises:   ArgumentError for neither, FileError for anything that is not a whole, unaltered model
    """
    folder = arguments.path(path, "model")
    if path in names():
        return Model.load(FOLDER / folder)
    if not os.path.lexists(folder):
        known = ", ".join(names()) or "none here"
        raise bad_value("model", f"a folder, or a bundled model ({known})", repr(str(folder)))
    return Model.load(folder)


def open_model(model: Model | str | os.PathLike[str]) -> Model:
    """The model that an argument means.

    model:    a Model, which is returned as it is; else as in `load`
    returns:  Model; a bundled one is read once, and then shared
    raises:   ArgumentTypeError, ArgumentError, FileError
    """
    if isinstance(model, Model):
        return model
    return _shared(FOLDER, model) if isinstance(model, str) and model in names() else load(model)


@functools.cache
def _shared(folder: Path, name: str) -> Model:
    """A bundled model; the folder is part of what is remembered, for the tests that change it."""
    return Model.load(folder / name)
