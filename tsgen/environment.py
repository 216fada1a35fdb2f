"""What is installed here, and which backend of which op runs."""

from __future__ import annotations

import importlib.metadata
import platform

import numpy as np
import torch

from tsgen import bundled, dispatch, native
from tsgen.errors import TsgenError
from tsgen.version import __version__

OPTIONAL = ("triton", "matplotlib", "pyarrow", "pandas", "scikit-learn")


def report() -> str:
    """Versions, devices, backends, bundled models: the text of `tsgen info`."""
    lines = [f"tsgen {__version__}, torch {torch.__version__}, numpy {np.__version__}"]
    lines += [f"Python {platform.python_version()}, {platform.platform()}"]
    lines += ["optional: " + ", ".join(map(version, OPTIONAL))]
    lines += [f"CPU: {torch.get_num_threads()} threads, kernels for {instruction_set()}"]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines += [f"GPU: {', '.join(gpus) or 'none'}"]
    lines += ["", "op x backend; * is what runs where none is named"]
    lines += [cell(op, backend) for op in dispatch.TABLE for backend in dispatch.TABLE[op]]
    lines += ["", f"bundled models: {', '.join(bundled.names()) or 'none'}"]
    return "\n".join(lines)


def instruction_set() -> str:
    """What the native kernels are compiled for and this machine has."""
    try:
        return native.instruction_set()
    except ImportError as error:
        return f"nothing: {error}"


def version(package: str) -> str:
    """A package and its version, if it is there."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {package}"


def cell(op: str, backend: str) -> str:
    """Whether a backend of an op runs here, or why not."""
    device = "cpu" if backend in dispatch.PREFERENCE["cpu"] else "cuda"
    dtypes = dispatch.TABLE[op][backend]
    dtype = torch.float32 if torch.float32 in dtypes else dtypes[0]
    why = dispatch.obstacle(op, backend, device, dtype)
    if why is None and device == "cuda" and not torch.cuda.is_available():
        why = "needs a GPU"
    try:
        chosen = dispatch.choose(op, None, device, dtype) == backend
    except TsgenError:  # the environment asks for a backend that this op has not
        chosen = False
    state = "runs" if why is None else f"does not run: {why}"
    return f"{'*' if chosen and why is None else ' '} {op:22} {backend:8} {state}"
