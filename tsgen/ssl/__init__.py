"""Self-supervision of stage 1: the objectives, by name. See docs/ssl.md.

Each module has the pure `loss`, an `objective` made of it and its heads, and the WEIGHT that its
loss has beside the tokenizer's.
"""

from types import ModuleType

from tsgen.ssl import barlow_twins, byol, simsiam, vibcreg, vicreg

OBJECTIVES: dict[str, ModuleType] = {
    "barlow_twins": barlow_twins,
    "vicreg": vicreg,
    "vibcreg": vibcreg,
    "byol": byol,
    "simsiam": simsiam,
}
