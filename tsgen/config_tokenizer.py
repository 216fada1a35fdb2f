"""Every setting of the tokenizer, and the sizes that follow from them.

Sizes are those of timevqvae 1.0.1 (Lee et al. 2023, AISTATS).
"""

import math
from dataclasses import dataclass

from tsgen.checks import LARGEST, each, number, one_of, whole
from tsgen.errors import bad_value

QUANTISERS = ("euclidean", "cosine", "residual", "fsq")
GRADIENTS = ("straight_through", "rotation")
MOST_LEVELS = 64  # of a number: so few that the nearest code in float32 is that of rounding


@dataclass(frozen=True)
class TokenizerConfig:
    """STFT, encoders, codebooks and decoders of stage 1; one of each per band.

    With 2 bands the low one is row 0 of the spectrogram and the high one all other rows.
    """

    n_channels: int
    length: int  # samples
    bands: int = 2
    n_fft: int = 4  # window, samples; the hop is a quarter of it
    token_width: tuple[int, ...] = (8, 32)  # tokens along time that each band aims at
    init_dim: int = 4  # channels after the first convolution; doubles with each halving of time
    max_dim: int = 128  # where that doubling stops
    hidden_dim: int = 128
    n_resblocks: int = 2
    dropout: float = 0.3
    n_codes: tuple[int, ...] = (1024, 1024)
    code_dim: int = 8
    codebook: str = "euclidean"  # of QUANTISERS
    levels: tuple[int, ...] = ()  # "fsq": of each of the code_dim numbers; n_codes is their product
    n_quantisers: int = 2  # "residual": codes of a place, which add up
    gradient: str = "straight_through"  # of GRADIENTS: past the quantiser
    # of learned codes; "fsq" reads none of these
    ema_decay: float = 0.8
    commitment: float = 1.0
    orthogonal: float = 0.0  # weight of the regulariser; above 0 the codes learn by gradient
    restart_below: float = 0.0  # a code with a smaller average count starts anew, with 1; 0 never

    def __post_init__(self) -> None:
        one_of("bands", self.bands, (1, 2))
        one_of("codebook", self.codebook, QUANTISERS)
        one_of("gradient", self.gradient, GRADIENTS)
        whole("length", self.length, at_least=2)
        whole("n_fft", self.n_fft, at_least=2, at_most=max(4, 2 * self.length))
        for name in ("n_channels", "init_dim", "max_dim", "hidden_dim", "code_dim"):
            whole(name, getattr(self, name))
        whole("n_resblocks", self.n_resblocks, at_least=0, at_most=1000)
        for name in ("commitment", "orthogonal"):
            number(name, getattr(self, name))
        number("restart_below", self.restart_below, at_most=1)
        for name in ("dropout", "ema_decay"):
            number(name, getattr(self, name), below=1)
        for name in ("token_width", "n_codes"):
            for value in each(name, getattr(self, name), self.bands):
                whole(name, value)
        for band in range(self.bands):
            if self.n_places(band) < 1:
                wanted = "columns enough that halving time leaves one"
                raise bad_value("token_width", wanted, self.token_width)
        self.check_quantiser()

    def check_quantiser(self) -> None:
        """Refuse what does not go together."""
        whole("n_quantisers", self.n_quantisers, at_least=2, at_most=64)
        if self.codebook == "residual" and min(self.n_codes) < self.n_quantisers:
            wanted = f"n_quantisers = {self.n_quantisers} or more a band"
            raise bad_value("n_codes", wanted, self.n_codes)
        if self.codebook != "fsq":
            each("levels", self.levels, 0, "none where codebook is not 'fsq'")
            return
        each("levels", self.levels, self.code_dim, "one of each of code_dim numbers")
        check_levels(self.levels)
        if any(math.prod(self.levels) != K for K in self.n_codes):
            wanted = f"{math.prod(self.levels)}, the product of levels {self.levels}, a band"
            raise bad_value("n_codes", wanted, self.n_codes)
        if self.gradient != "straight_through" or self.orthogonal:
            wanted = "'straight_through' and 0 where codebook is 'fsq': no code is learned"
            raise bad_value("gradient, orthogonal", wanted, (self.gradient, self.orthogonal))

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return max(1, self.n_fft // 4)

    @property
    def inner_length(self) -> int:
        """Samples that are transformed: the borders are reflected, which takes a few."""
        return max(self.length, self.n_fft // 2 + 1)

    @property
    def n_frames(self) -> int:
        """Frames of the spectrogram."""
        return 1 + (self.inner_length + 2 * (self.n_fft // 2) - self.n_fft) // self.hop

    def rows(self, band: int) -> tuple[int, int]:
        """First and end row of the spectrogram that a band sees."""
        last = self.n_fft // 2 + 1
        if self.bands == 1:
            return 0, last
        return (0, 1) if band == 0 else (1, last)

    def n_halvings(self, band: int) -> int:
        """How often the encoder halves time; at least once."""
        return halvings(self.inner_length, self.hop, self.token_width[band])

    @property
    def depth(self) -> int:
        """Tokens of a place."""
        return self.n_quantisers if self.codebook == "residual" else 1

    def grid(self, band: int) -> tuple[int, int]:
        """Rows and columns of a band's places, which have latents."""
        first, end = self.rows(band)
        return end - first, self.n_frames >> self.n_halvings(band)

    def n_places(self, band: int) -> int:
        """Places of a band."""
        rows, columns = self.grid(band)
        return rows * columns

    def n_tokens(self, band: int) -> int:
        """Tokens of a band: all its places at the first depth, then at the next."""
        return self.depth * self.n_places(band)


def check_levels(levels: tuple[int, ...]) -> None:
    """Refuse what no grid has, and one of too many codes."""
    for level in levels:
        whole("levels", level, at_least=3, at_most=MOST_LEVELS)
    # of at least 3 each, 16 are too many, and a product of thousands takes long
    if len(levels) > 15 or math.prod(levels) > LARGEST:
        shown = levels if len(levels) < 20 else f"{len(levels)} of them"
        raise bad_value("levels", f"ones whose product is at most {LARGEST}", shown)


def halvings(length: int, hop: int, width: int) -> int:
    """How often frames are halved to come near `width` columns; at least once."""
    rate = round(length / hop / width) if length >= width else 1
    return max(1, round(math.log2(max(1, rate))))
