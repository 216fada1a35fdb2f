"""Every setting: frozen dataclasses with defaults, checked once, and the presets.

Sizes of preset "timevqvae" are those of timevqvae 1.0.1 (Lee et al. 2023, AISTATS).
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from tsgen.checks import LARGEST, each, number, one_of, whole
from tsgen.config_tokenizer import GRADIENTS as GRADIENTS
from tsgen.config_tokenizer import QUANTISERS as QUANTISERS
from tsgen.config_tokenizer import TokenizerConfig as TokenizerConfig
from tsgen.errors import bad_value


@dataclass(frozen=True)
class PriorConfig:
    """Bidirectional transformer over one band's tokens."""

    embed_dim: int = 128
    hidden_dim: int = 128
    n_layers: int = 4
    n_heads: int = 2
    head_dim: int = 64
    ff_mult: float = 1  # the feed-forward is 2/3 ff_mult times as wide as hidden_dim
    dropout: float = 0.3  # of the embeddings of known tokens
    tables: str = "codes"  # a token's vectors: a function of its code; "free": each by itself
    sharpness: float = 10.0  # of attention when training starts: the largest score there can be

    def __post_init__(self) -> None:
        number("sharpness", self.sharpness, more=True)
        for name in ("embed_dim", "hidden_dim", "n_heads", "head_dim"):
            whole(name, getattr(self, name))
        whole("n_layers", self.n_layers, at_most=1000)
        number("ff_mult", self.ff_mult, at_least=3 / 2 / self.hidden_dim, below=1000)
        number("dropout", self.dropout, below=1)
        one_of("tables", self.tables, ("codes", "free"))

    @property
    def ff_dim(self) -> int:
        """Width of the feed-forward."""
        return int(self.hidden_dim * self.ff_mult * 2 / 3)


SCHEDULES = ("cosine", "linear", "square", "cubic", "sqrt", "log", "exp")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn. See `tsgen.sampler` for the exact law."""

    steps: tuple[int, ...] = (10, 10)  # a band
    temperature: float = 1.0
    choice_temperature: tuple[float, ...] = (10.0, 0.0)  # a band: noise on the confidence
    guidance: float = 1.0  # 1 follows the class, above it exaggerates it
    schedule: str = "cosine"
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    dtype: str | None = None  # of the priors' products, on a GPU; None: as the weights are

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("dtype", self.dtype, (None, *DTYPES))
        if not isinstance(self.choice_temperature, tuple):
            raise bad_value("choice_temperature", "a tuple, one a band", self.choice_temperature)
        for value in each("steps", self.steps, len(self.choice_temperature)):
            whole("steps", value, at_most=2**16 - 1)
        for value in self.choice_temperature:
            number("choice_temperature", value)
        number("temperature", self.temperature)
        number("guidance", self.guidance, at_least=-LARGEST)
        whole("top_k", self.top_k, at_least=0)
        number("top_p", self.top_p, more=True, at_most=1)


@dataclass(frozen=True)
class VaeConfig:
    """The Gaussian of a vae, between the encoders and the decoders of a TokenizerConfig."""

    latent_dim: int = 16
    noise: float = 0.3  # least standard deviation of p(x | z); that of the data is 1
    free_bits: float = 0.0  # nats that each latent number has for nothing

    def __post_init__(self) -> None:
        whole("latent_dim", self.latent_dim)
        number("noise", self.noise, more=True)
        number("free_bits", self.free_bits)


FAMILIES = ("vq", "vae")


@dataclass(frozen=True)
class ModelConfig:
    """The whole model: tokenizer, one prior a band, and the defaults of sampling.

    With `vae` set it is a variational autoencoder, which has no tokens, and so no prior over them:
    of the tokenizer it takes sizes, not codes, and of sampling the temperature.
    """

    tokenizer: TokenizerConfig
    priors: tuple[PriorConfig, ...]
    n_classes: int = 0
    p_unconditional: float = 0.2  # how often training hides the class
    band_alignment: str = "time"  # "flat": as timevqvae 1.0.1, high tokens see low ones misplaced
    mask_polarity: str = "mask"  # "keep": as timevqvae 1.0.1, 36 % masked in training, not 64 %
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    vae: VaeConfig | None = None

    def __post_init__(self) -> None:
        one_of("band_alignment", self.band_alignment, ("time", "flat"))
        one_of("mask_polarity", self.mask_polarity, ("mask", "keep"))
        whole("n_classes", self.n_classes, at_least=0)
        number("p_unconditional", self.p_unconditional, at_most=1)
        bands = self.tokenizer.bands
        each("priors", self.priors, 0 if self.vae else bands, "one a band; none in a vae")
        each("steps", self.sampling.steps, bands)

    @property
    def family(self) -> str:
        """A name in FAMILIES."""
        return "vae" if self.vae else "vq"

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `to_dict`. Raises ArgumentError for anything unknown or missing."""
        try:
            return ModelConfig(
                **values
                | {
                    "tokenizer": TokenizerConfig(**tuples(values["tokenizer"])),
                    "priors": tuple(PriorConfig(**prior) for prior in values["priors"]),
                    "sampling": SamplingConfig(**tuples(values["sampling"])),
                    "vae": None if values.get("vae") is None else VaeConfig(**values["vae"]),
                }
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise bad_value("config", "the fields of ModelConfig", error) from error


OBJECTIVES = ("barlow_twins", "vicreg", "vibcreg", "byol", "simsiam")
AUGMENTATIONS = (
    *("jitter", "scaling", "slope", "flip", "magnitude_warp"),
    *("crop_resize", "window_warp", "slice_shuffle", "time_mask"),
    *("frequency_mask", "phase_shift", "band_gain"),
)


@dataclass(frozen=True)
class SslConfig:
    """Self-supervision of the encoders in stage 1; nothing of it is in a trained model."""

    objective: str = "vibcreg"
    weight: float | None = None  # of its loss beside the tokenizer's; None: the objective's own
    views: int = 1  # augmented ones: 1 is compared with the series itself, 2 with each other
    on: str = "latents"  # "codes": the first of the two views after quantisation
    projector_width: int = 256
    # names of AUGMENTATIONS, or what `tsgen.augment` makes, one after the other
    augmentations: tuple[Any, ...] = ("jitter", "scaling")
    momentum: float | None = None  # of the target that "byol" predicts; None: 0.99

    def __post_init__(self) -> None:
        one_of("objective", self.objective, OBJECTIVES)
        one_of("views", self.views, (1, 2))
        one_of("on", self.on, ("latents", "codes"))
        whole("projector_width", self.projector_width, at_least=2)
        if self.objective == "vibcreg" and self.projector_width > 64 and self.projector_width % 64:
            wanted = "a multiple of 64, or less: features are whitened in groups of 64"
            raise bad_value("projector_width", wanted, self.projector_width)
        if self.momentum is not None:
            if self.objective != "byol":
                raise bad_value("momentum", "None where objective is not 'byol'", self.momentum)
            number("momentum", self.momentum, below=1)
        if self.weight is not None:
            number("weight", self.weight)
        if not isinstance(self.augmentations, tuple):
            raise bad_value("augmentations", "a tuple", repr(self.augmentations))
        for augmentation in self.augmentations:
            if not callable(augmentation) or isinstance(augmentation, type):
                one_of("augmentations", augmentation, AUGMENTATIONS)


def tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where the dataclasses have tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


@dataclass(frozen=True)
class Preset:
    """Sizes without a data set: what `tsgen.fit` makes a ModelConfig of."""

    tokenizer: dict[str, Any] = field(default_factory=dict)
    priors: tuple[PriorConfig, ...] = (PriorConfig(), PriorConfig())
    band_alignment: str = "time"
    mask_polarity: str = "mask"
    choice_temperature: tuple[float, ...] = (10.0, 0.0)
    adapt_codes: bool = True  # fewer codes where the data set is small


PRESETS = {
    "base": Preset(
        tokenizer={"restart_below": 0.05, "n_resblocks": 0},
        priors=(PriorConfig(), PriorConfig(n_layers=2, head_dim=32)),
    ),
    "large": Preset(
        tokenizer={"init_dim": 16, "max_dim": 256, "hidden_dim": 256, "restart_below": 0.05},
        priors=(
            PriorConfig(embed_dim=256, hidden_dim=256, n_layers=6, n_heads=4, ff_mult=4),
            PriorConfig(embed_dim=256, hidden_dim=256, n_layers=4, n_heads=4, ff_mult=4),
        ),
    ),
    "timevqvae": Preset(
        tokenizer={"max_dim": 2**20},
        priors=(
            PriorConfig(tables="free", sharpness=0.125),
            PriorConfig(hidden_dim=32, n_layers=1, n_heads=1, tables="free", sharpness=0.125),
        ),
        band_alignment="flat",
        mask_polarity="keep",
        adapt_codes=False,
    ),
}
