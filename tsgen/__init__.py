"""tsgen: learn a collection of time series and generate new ones, fast."""

from tsgen.fit import fit
from tsgen.model import Model, from_timevqvae

load = Model.load

__all__ = ["Model", "fit", "from_timevqvae", "load"]
