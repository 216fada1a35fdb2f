"""Named ranges for the torch profiler, at the hot paths that are not ops.

`torch.ops.tsgen.*` appear in a trace by themselves; `tsgen profile` writes one.
"""

import contextlib
from typing import Any

import torch
from torch.profiler import record_function

NOTHING = contextlib.nullcontext()


def profiled() -> bool:
    """Whether a profiler is active; not while torch.compile looks, which would warn of a range."""
    # record_function is not free where nobody listens, see LOG.md
    return not torch.compiler.is_compiling() and torch.autograd.profiler._is_profiler_enabled


def span(name: str) -> Any:
    """A context that shows as `tsgen::<name>` in a trace, and is nothing where none is taken."""
    return record_function(f"tsgen::{name}") if profiled() else NOTHING
