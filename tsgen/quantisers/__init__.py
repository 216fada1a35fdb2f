"""Quantisers: latents to token ids and back, one file each behind one interface.

codebook     codes of a place
"euclidean"  the nearest of learned ones             van den Oord et al. 2017 (VQ-VAE)
"cosine"     the nearest by angle, of length 1       Yu et al. 2022 (ViT-VQGAN)
"residual"   several learned ones, which add up      Lee et al. 2022 (RQ-VAE)
"fsq"        numbers of few levels, nothing learned  Mentzer et al. 2023 (FSQ)
"""

from tsgen.config import TokenizerConfig
from tsgen.quantisers.codebook import Codebook
from tsgen.quantisers.fsq import FSQ
from tsgen.quantisers.quantiser import Projections, Quantised, Quantiser, perplexity
from tsgen.quantisers.residual import Residual

__all__ = ["Projections", "Quantised", "Quantiser", "perplexity", "quantiser"]


def quantiser(config: TokenizerConfig, band: int) -> Quantiser:
    """The quantiser of a band, as configured."""
    if config.codebook == "fsq":
        return FSQ(config)
    kind = Residual if config.codebook == "residual" else Codebook
    return kind(config, config.n_codes[band])
