"""tsgen: learn a collection of time series and generate new ones, fast."""

import importlib
from typing import TYPE_CHECKING, Any

from tsgen.errors import TsgenError
from tsgen.version import __version__

if TYPE_CHECKING:
    from tsgen.bulk import generate, stream
    from tsgen.bundled import load
    from tsgen.compat import from_timevqvae
    from tsgen.fitting import fit
    from tsgen.model import Model
    from tsgen.probes import probe

__all__ = [
    "Model",
    "TsgenError",
    "__version__",
    "fit",
    "from_timevqvae",
    "generate",
    "load",
    "probe",
    "stream",
]

# Read when first used: `tsgen --help` does not wait for torch.
_HOMES = {
    "Model": "tsgen.model",
    "fit": "tsgen.fitting",
    "from_timevqvae": "tsgen.compat",
    "generate": "tsgen.bulk",
    "load": "tsgen.bundled",
    "probe": "tsgen.probes",
    "stream": "tsgen.bulk",
}
_MODULES = (
    "augment",
    "bundled",
    "config",
    "data",
    "errors",
    "formats",
    "layers",
    "metrics",
    "network",
    "ops",
    "prior",
    "probes",
    "sampler",
    "ssl",
    "synthetic",
    "tokenizer",
    "train",
    "viz",
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"tsgen.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'tsgen' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
