"""The command line, in the words of the API: what can be typed. `tsgen.commands` does it."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from tsgen.config import (
    AUGMENTATIONS,
    DTYPES,
    FAMILIES,
    GRADIENTS,
    OBJECTIVES,
    PRESETS,
    QUANTISERS,
    SCHEDULES,
)
from tsgen.errors import TsgenError
from tsgen.version import __version__

WRITTEN = ".npz, .npy, .csv, .ts or .parquet"
EXAMPLES = """examples:
  tsgen demo --out demo
  tsgen fit data.npz --out my-model --minutes 10
  tsgen generate my-model 1000 --label funnel --out new.npz
  tsgen generate my-model 10000000 --out samples/ --format parquet
  tsgen impute my-model gaps.csv --out whole.csv

tsgen COMMAND --help tells more.
"""

Parser = argparse.ArgumentParser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    argv:     the words after `tsgen`; None takes the process's own
    returns:  0; 2 for what a user can mend, told in one line on stderr; 130 when interrupted; 1
              when nobody reads on
    """
    args = parser().parse_args(argv)
    try:
        from tsgen import commands  # torch and all the rest; `tsgen --help` does without

        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say(f"tsgen: warning: {message}")
            print(getattr(commands, args.command)(args), flush=True)
    except TsgenError as error:
        say(f"tsgen: error: {' '.join(str(error).split())}")
        return 2
    except MemoryError:
        say("tsgen: error: wanted more memory than there is; generate to a folder needs little")
        return 2
    except BrokenPipeError:  # `tsgen info | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        say("tsgen: interrupted")
        return 130
    return 0


def say(line: str) -> None:
    """A line that is not a result."""
    print(line, file=sys.stderr, flush=True)


def parser() -> Parser:
    """All commands and their arguments."""
    top = Parser(
        prog="tsgen",
        description="Learn a collection of time series and generate new ones, fast.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"tsgen {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, (what, groups) in COMMANDS.items():
        new = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        for add in groups:
            add(new)
    return top


def fitted(new: Parser) -> None:
    new.add_argument("data", metavar="DATA", help="a file of series, or a folder of NAME_TRAIN.*")
    new.add_argument("--out", required=True, metavar="FOLDER", help="for the model and its log")
    new.add_argument("--labels", metavar="FILE", help='one a line; "none" ignores those in DATA')
    new.add_argument("--preset", default="base", choices=tuple(PRESETS), help="sizes (base)")
    new.add_argument("--family", default="vq", choices=FAMILIES, help="vae: the baseline (vq)")
    new.add_argument("--bands", type=int, help="of the spectrogram, 1 or 2 (2)")
    new.add_argument("--n-codes", type=int, nargs="+", help="of each band, or one for both")
    new.add_argument("--codebook", choices=QUANTISERS, help="how latents become tokens (euclidean)")
    new.add_argument(
        "--levels", type=int, nargs="+", help="of fsq: 3 to 64, of each number of a code"
    )
    new.add_argument("--n-quantisers", type=int, help="of residual: codes a place (2)")
    new.add_argument("--gradient", choices=GRADIENTS, help="past the quantiser (straight_through)")
    new.add_argument("--orthogonal", type=float, help="weight of codes' regularisation (0)")
    new.add_argument("--steps", type=int, nargs="+", help="of stage 1 and 2, or one for both")
    new.add_argument("--minutes", type=float, help="instead of steps: for both stages together")
    new.add_argument("--batch-size", type=int, help="series a step")
    new.add_argument("--seed", type=int, default=0, help="same seed, same weights (0)")
    new.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (a GPU if there is one)")
    new.add_argument("--autocast", metavar="DTYPE", help="bfloat16: faster on a GPU")
    new.add_argument("--compile", action="store_true", help="by torch.compile; minutes at first")
    new.add_argument("--ssl", choices=OBJECTIVES, help="self-supervision of the encoders")
    what = "what it compares with the series itself, in this order (jitter scaling)"
    new.add_argument("--augment", nargs="+", choices=AUGMENTATIONS, metavar="NAME", help=what)
    new.add_argument("--resume", action="store_true", help="go on where a run in --out stopped")


def reading(new: Parser) -> None:
    new.add_argument("--split", choices=("train", "test"), help="of a folder, or an .npz with both")
    new.add_argument("--layout", default="nct", choices=("nct", "ntc"), help="of .npy and .npz")
    new.add_argument("--label-column", metavar="NAME", help="of a .csv: name or position")


def model(new: Parser) -> None:
    new.add_argument("model", metavar="MODEL", help="a folder, or the name of a bundled model")
    new.add_argument("--device", default="cpu", help='where to compute: "cpu", "cuda", "cuda:1"')


def generated(new: Parser) -> None:
    new.add_argument("n", type=int, metavar="N", help="how many series")
    new.add_argument("--out", required=True, help=f"a {WRITTEN} file, or a folder for files")
    new.add_argument("--format", help="of the files in a folder (npz)")
    new.add_argument("--shard-size", type=int, help="series a file in a folder (8192)")


def series(new: Parser) -> None:
    new.add_argument("data", metavar="FILE", help="series to read, NaN or nothing where unknown")
    new.add_argument("--out", required=True, metavar="FILE", help=f"{WRITTEN}; labels are kept")


def history(new: Parser) -> None:
    new.add_argument("data", metavar="FILE", help="series to continue")
    new.add_argument("horizon", type=int, metavar="HORIZON", help="samples to draw, at least 2")
    new.add_argument("--n", type=int, default=1, help="futures of each series (1)")
    what = f"{WRITTEN}; the futures of series i come together, with i as their label"
    new.add_argument("--out", required=True, metavar="FILE", help=what)


def evaluated(new: Parser) -> None:
    new.add_argument("data", metavar="DATA", help="a folder or .npz with a train and a test part")
    new.add_argument("--n", type=int, help="series to generate (as many as train has)")
    new.add_argument("--layout", default="nct", choices=("nct", "ntc"), help="of .npy and .npz")
    new.add_argument("--json", action="store_true", help="print JSON")


def probed(new: Parser) -> None:
    new.add_argument("data", metavar="DATA", help="a folder or .npz with a train and a test part")
    new.add_argument("--seed", type=int, default=0, help="of shuffles and intervals (0)")
    new.add_argument("--layout", default="nct", choices=("nct", "ntc"), help="of .npy and .npz")
    new.add_argument("--json", action="store_true", help="print JSON")


def label(new: Parser) -> None:
    new.add_argument("--label", nargs="+", metavar="NAME", help="class; several take turns")


def sampling(new: Parser) -> None:
    new.add_argument("--seed", type=int, default=0, help="series i depends on it and on i (0)")
    own = new.add_argument_group("settings", "instead of the model's; one number, or one a band")
    own.add_argument("--steps", type=int, nargs="+", help="of decoding")
    own.add_argument("--temperature", type=float, help="of tokens; below 1 is more typical")
    own.add_argument("--choice-temperature", type=float, nargs="+", help="of what is kept")
    own.add_argument("--guidance", type=float, help="above 1 exaggerates the class")
    own.add_argument("--schedule", choices=SCHEDULES, help="of how many tokens a step keeps")
    own.add_argument("--top-k", type=int, help="only the k likeliest codes")
    own.add_argument("--top-p", type=float, help="only the likeliest codes of this total")
    own.add_argument("--dtype", choices=DTYPES, help="of the transformers, on a GPU")


def benched(new: Parser) -> None:
    new.add_argument("--op", nargs="+", metavar="OP", help="time only these, and no sampling")
    new.add_argument("--model", metavar="MODEL", help="time its sampling (cbf)")
    new.add_argument("--n", type=int, default=256, help="series to draw a round (256)")
    new.add_argument("--rounds", type=int, default=10, help="in which all take their turn (10)")
    new.add_argument("--threads", type=int, help="of the CPU (as many as torch takes)")
    new.add_argument("--json", metavar="FILE", help="also write what was measured there")


def profiled(new: Parser) -> None:
    new.add_argument("--out", default="trace.json", metavar="FILE", help="trace (trace.json)")
    new.add_argument("--engine", default="auto", help="of sampling: auto, cpu, torch (auto)")
    new.add_argument("--n", type=int, default=256, help="series to draw (256)")
    new.add_argument("--train", type=int, default=0, metavar="STEPS", help="also train (0)")


def viewed(new: Parser) -> None:
    new.add_argument("data", metavar="DATA", help="a file of series, or a folder of NAME_TRAIN.*")
    new.add_argument("--out", default="augmented.png", metavar="FILE", help="(augmented.png)")
    what = f"one after the other; without it each of {', '.join(AUGMENTATIONS)} by itself"
    new.add_argument("--augment", nargs="+", choices=AUGMENTATIONS, metavar="NAME", help=what)
    new.add_argument("--n", type=int, default=3, help="series to show, the first ones (3)")
    new.add_argument("--seed", type=int, default=0, help="a view depends on it (0)")


def shown(new: Parser) -> None:
    new.add_argument("--out", default="demo", metavar="FOLDER", help="for what it makes (demo)")


COMMANDS: dict[str, tuple[str, tuple[Callable[[Parser], None], ...]]] = {
    "fit": ("train a model on a collection of series", (fitted, reading)),
    "generate": ("draw new series", (model, generated, label, sampling)),
    "impute": ("fill in missing values", (model, series, reading, label, sampling)),
    "forecast": ("continue series", (model, history, reading, label, sampling)),
    "evaluate": ("score a model beside real data: FID, TSTR", (model, evaluated, sampling)),
    "probe": ("say what latents and tokens tell of the class", (model, probed)),
    "info": ("print versions, devices, backends and bundled models", ()),
    "inspect": ("print what a model is made of", (model,)),
    "bench": ("time every kernel and engine beside plain PyTorch", (benched,)),
    "profile": ("write a torch-profiler trace of sampling, and of training", (model, profiled)),
    "augment": ("draw augmented views of series, as a picture", (viewed, reading)),
    "demo": ("draw 1,000 series from a bundled model, with a picture", (shown,)),
}
