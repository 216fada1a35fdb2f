"""One stage of a small training run at a time, step by step."""

from test_train import TINY, series

from tsgen.config import Preset
from tsgen.data import Labels
from tsgen.fitting import model_config, train_config
from tsgen.log import Log
from tsgen.run import Run
from tsgen.train import Trainer

STAGES = ("tokenizer", "prior_0", "prior_1")
LEAST = Preset({"hidden_dim": 8, "n_resblocks": 0, "token_width": (4, 4)}, TINY.priors)
ONE_BAND = Preset(LEAST.tokenizer | {"bands": 1, "token_width": (4,)}, TINY.priors)
FSQ = Preset(TINY.tokenizer | {"codebook": "fsq"}, TINY.priors)
RESIDUAL = Preset(TINY.tokenizer | {"codebook": "residual"}, TINY.priors)
PRESETS = {"tiny": TINY, "base": "base", "timevqvae": "timevqvae"}
PRESETS |= {"fsq": FSQ, "residual": RESIDUAL}


def run(preset: str = "tiny", n: int = 40, length: int = 64, family: str = "vq", **settings) -> Run:
    """All that a fit prepares."""
    X, y = series(n, length)
    labels = Labels.fit(y)
    config = train_config({"steps": 10**6, "validation": 0.0, "device": "cpu"} | settings)
    small = {"least": LEAST, "one band": ONE_BAND}
    sizes = model_config(X[:, None], labels, (PRESETS | small)[preset], {}, family)
    return Run(X[:, None], labels.encode(y, n), labels, sizes, config, None)


def trainer(run: Run, stage: str) -> Trainer:
    made = Trainer(run.stages()[stage][1](), run.config, Log(None), lambda _: None)
    made.progress.total = 10**6
    return made


def follow(run: Run, other: Run, stage: str) -> None:
    """The weights of the other run, and in stage 2 its tokens: those of its own may differ."""
    run.network.load_state_dict(other.network.state_dict())
    if stage != "tokenizer":
        tokens = tuple([ids.to(run.device) for ids in part] for part in other.tokens)
        run.__dict__["tokens"] = tokens  # where cached_property keeps them


def take(trainer: Trainer, n: int) -> list[float]:
    """The losses of the next n steps."""
    losses = []
    for _ in range(n):
        losses.append(float(trainer.step()[0]))
        trainer.progress.step += 1
    return losses
