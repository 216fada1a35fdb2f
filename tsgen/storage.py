"""Models on disk: what a Model's folder holds beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tsgen import checkpoint
from tsgen.config import ModelConfig
from tsgen.data import Labels, Scaler
from tsgen.errors import ArgumentError, FileError, bad_value
from tsgen.network import Network

if TYPE_CHECKING:
    from tsgen.model import Model

COUNTERS = ("counts_K", "sums_KD", "counts_Y")  # they grow with the data: never in 16 bits


def write(model: Model, folder: Path, *, half: bool) -> None:
    """Write config.json and model.safetensors; all of it or nothing. Raises FileError."""
    config = {
        "model": model.config.to_dict(),
        "scaler": model.scaler.to_dict(),
        "labels": model.labels.to_dict() if model.labels else None,
    }
    state = model.network.state_dict()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    tensors = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    if half:
        tensors = {n: halved(n, t) for n, t in tensors.items()}
    checkpoint.write_folder(folder, config, tensors, kind="model")


def halved(name: str, tensor: Tensor) -> Tensor:
    """A weight in 16 bits, if those hold it; what counts stays as it is."""
    if not tensor.is_floating_point() or name.endswith(COUNTERS):
        return tensor
    half = tensor.half()
    if not half.isfinite().all():
        raise bad_value("half", "weights within 65504", f"larger ones in {name}")
    return half


def read(folder: Path) -> tuple[Network, Scaler, Labels | None]:
    """The parts of a model. Sizes are checked before anything is allocated. Raises FileError."""
    config, tensors = checkpoint.read_folder(folder, kind="model")
    try:
        sizes = ModelConfig.from_dict(config["model"])
        scaler = Scaler.from_dict(config["scaler"])
        labels = Labels.from_dict(config["labels"]) if config["labels"] else None
        if len(scaler.mean) != sizes.tokenizer.n_channels:
            raise bad_value("scaler", f"{sizes.tokenizer.n_channels} channels", scaler)
        if sizes.n_classes != (len(labels.names) if labels else 0):
            raise bad_value("labels", f"{sizes.n_classes} names", labels)
    except (KeyError, ArgumentError, TypeError) as error:
        raise FileError(f"{folder}: wanted a tsgen model, got a damaged one: {error}") from error
    # what `half` wrote: 16 bits on disk, 32 in use
    tensors = {n: t.float() if t.dtype == torch.float16 else t for n, t in tensors.items()}
    checkpoint.check_tensors(tensors, Network.shapes(sizes), folder)
    return Network.from_state(sizes, tensors), scaler, labels
