"""What the commands of `tsgen.cli` do. Each takes its arguments and returns the text to print."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tsgen.bench
import tsgen.bulk
import tsgen.profile
from tsgen import arguments, bundled, environment, formats, metrics, probes, synthetic, viz
from tsgen.bulk import check_writable, label_names
from tsgen.config import ModelConfig, SamplingConfig, SslConfig
from tsgen.errors import ArgumentError, FileError, bad_value
from tsgen.fitting import fit as fit_model
from tsgen.formats import Collection
from tsgen.formats_io import typed_errors
from tsgen.model import Model
from tsgen.run import make_folder

Floats = NDArray[np.float32]

SETTINGS = tuple(field.name for field in dataclasses.fields(SamplingConfig))


def fit(args: Namespace) -> str:
    """Train."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise bad_value("WORLD_SIZE", "1: training runs in one process", os.environ["WORLD_SIZE"])
    split = "train" if args.split is None and Path(args.data).is_dir() else args.split
    data = read(args, split)
    if data.lengths is not None:
        got = f"{data.lengths.min()} to {data.lengths.max()} samples; crop or fill them"
        raise bad_value("DATA", "series of one length", got)
    labels: Any = data.y
    if args.labels is not None:
        labels = None if args.labels == "none" else read_labels(args.labels, len(data.X))
    training = {"seed": args.seed, "device": args.device, "compile": args.compile}
    training |= given(args, ("steps", "minutes", "batch_size", "autocast"))
    training |= given(args, ("bands", "n_codes", "codebook", "n_quantisers"))
    training |= given(args, ("gradient", "orthogonal"))
    training |= {"levels": args.levels, "family": args.family}
    training |= {"ssl": objective(args)}
    began = time.perf_counter()
    model = fit_model(
        data.X, labels, preset=args.preset, out=args.out, resume=args.resume, **training
    )
    return (
        f"{args.out}: {model!r}\n"
        f"trained on {len(data.X):,} series in {time.perf_counter() - began:.0f} s\n"
        f"next: tsgen generate {args.out} 1000 --out new.npz"
    )


def objective(args: Namespace) -> SslConfig | None:
    """What --ssl and --augment ask for."""
    if args.ssl is None:
        if args.augment is not None:
            raise bad_value("--augment", "--ssl NAME beside it", "none")
        return None
    config = SslConfig(args.ssl)
    if args.augment is None:
        return config
    return dataclasses.replace(config, augmentations=tuple(args.augment))


def generate(args: Namespace) -> str:
    """Draw, to a file or a folder of files."""
    model, out, began = open_model(args), Path(args.out), time.perf_counter()
    arguments.count(args.n, "N", at_least=0)
    label = turns(args.label, args.n)
    if not is_file(args.out):
        folder = given(args, ("format", "shard_size"))
        how = settings(args) | folder
        tsgen.bulk.generate(model, args.n, out=out, label=label, seed=args.seed, **how)
        return f"{out}: {args.n:,} series in {time.perf_counter() - began:.1f} s"
    if args.format is not None or args.shard_size is not None:
        raise bad_value("--format, --shard-size", f"none where --out is a file ({out})", "one")
    names = label_names(model, model.class_ids(label, args.n))
    check_out(out, model.shape, names)
    x = model.generate(args.n, label=label, seed=args.seed, **settings(args))
    formats.write(out, x, None if names is None else np.resize(names, len(x)))
    return f"{out}: {len(x):,} series in {time.perf_counter() - began:.1f} s"


def impute(args: Namespace) -> str:
    """Fill in what is missing."""
    model, data = open_model(args), read(args, args.split)
    check_out(Path(args.out), model.shape, data.y)
    label = turns(args.label, len(data.X))
    x = model.impute(data.X, label=label, seed=args.seed, **settings(args))
    formats.write(args.out, x, data.y, channels=data.channels)
    return f"{args.out}: {np.isnan(data.X).sum():,} values filled in, in {len(x):,} series"


def forecast(args: Namespace) -> str:
    """Continue series."""
    model, data = open_model(args), read(args, args.split)
    if args.horizon < 2:
        raise bad_value("HORIZON", "at least 2 samples, to be written as series", args.horizon)
    m, labelled = len(data.X), Path(args.out).name.removesuffix(".gz")[-4:] != ".npy"
    names = np.arange(m).astype(np.str_) if labelled else None
    check_out(Path(args.out), (model.shape[0], args.horizon), names)
    label = turns(args.label, m)
    x = model.forecast(
        data.X, args.horizon, args.n, label=label, seed=args.seed, **settings(args)
    ).reshape(m * args.n, model.shape[0], args.horizon)
    formats.write(args.out, x, None if names is None else np.repeat(names, args.n))
    return f"{args.out}: {args.n:,} futures of {args.horizon} samples for each of {m:,} series"


def evaluate(args: Namespace) -> str:
    """Score beside real data."""
    args.label_column = None
    model, train, test = open_model(args), read(args, "train"), read(args, "test")
    n = len(train.X) if args.n is None else args.n
    labels = None
    if model.labels is not None and train.y is not None and test.y is not None:
        rng = np.random.Generator(np.random.PCG64(args.seed))
        labels = np.resize(rng.permutation(train.y), n)  # in the proportions of train
    x = model.generate(n, label=labels, seed=args.seed, **settings(args))
    if labels is None or train.y is None or test.y is None:
        scores = {"fid": metrics.evaluate_fid(x, x_train=train.X, x_test=test.X)}
    else:
        scores = metrics.evaluate(x, labels, train.X, train.y, test.X, test.y)
    return as_json(scores) if args.json else "\n".join(map(str, scores.values()))


def probe(args: Namespace) -> str:
    """Say what latents and tokens tell."""
    args.label_column = None
    model, train, test = open_model(args), read(args, "train"), read(args, "test")
    if train.y is None or test.y is None:
        raise bad_value("DATA", "series with labels", "none")
    found = probes.probe(model, train.X, train.y, test.X, test.y, seed=args.seed)
    return as_json(found) if args.json else probes.report(found)


def as_json(found: Mapping[str, Any]) -> str:
    """Dataclasses by name."""
    return json.dumps({name: dataclasses.asdict(it) for name, it in found.items()}, indent=2)


def info(args: Namespace) -> str:
    """Versions, devices, backends, bundled models."""
    return environment.report()


def inspect(args: Namespace) -> str:
    """A model's sizes."""
    model = open_model(args)
    config, (C, L) = model.config, model.shape
    lines = [repr(model), f"series: {C} channels, {L} samples"]
    lines += [band_line(config, band) for band in range(config.tokenizer.bands)]
    for name, module in model.network.named_children():
        lines += [f"weights of {name}: {sum(p.numel() for p in module.parameters()):,}"]
    for channel, (mean, std) in enumerate(zip(model.scaler.mean, model.scaler.std, strict=True)):
        lines += [f"channel {channel}: mean {mean:.6g}, standard deviation {std:.6g}"]
    lines += [f"labels: {', '.join(model.labels.names) if model.labels else 'none'}"]
    return "\n".join([*lines, f"config: {json.dumps(config.to_dict(), indent=2)}"])


def band_line(config: ModelConfig, band: int) -> str:
    """What a band sees, and what becomes of it."""
    sizes = config.tokenizer
    (first, end), (rows, columns) = sizes.rows(band), sizes.grid(band)
    line = f"band {band}: rows {first}-{end - 1} of the spectrogram, "
    if config.vae:
        return f"{line}{rows} x {columns} places of {config.vae.latent_dim} numbers for all"
    depth = f"{sizes.depth} x " if sizes.depth > 1 else ""
    codes = f"{sizes.n_tokens(band)} tokens of {sizes.n_codes[band]} codes"
    return f"{line}{depth}{rows} x {columns} = {codes}"


def bench(args: Namespace) -> str:
    """Time kernels and engines."""
    if args.json is not None:
        arguments.writable_file(Path(args.json))
    model = bundled.load(args.model or "cbf") if args.op is None or args.model else None
    found = tsgen.bench.run(args.op, model, args.n, args.rounds, args.threads)
    if args.json is not None:
        with typed_errors(args.json):
            Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    return tsgen.bench.report(found)


def profile(args: Namespace) -> str:
    """Trace sampling and training."""
    n, n_steps = arguments.count(args.n, "--n"), arguments.count(args.train, "--train", at_least=0)
    model, out = open_model(args), Path(args.out)
    arguments.writable_file(out)
    runs = {"sampling": tsgen.bench.drawing(model, args.engine, n)}
    runs |= tsgen.profile.training(model, n_steps) if n_steps else {}
    with typed_errors(args.out):
        table = tsgen.profile.trace(runs, out)
    return f"{table}\n{out}: open it in https://ui.perfetto.dev or chrome://tracing"


def augment(args: Namespace) -> str:
    """Augmented views as a picture."""
    data = read(args, "train" if args.split is None and Path(args.data).is_dir() else args.split)
    viz.augmented_views(data.X, args.augment, n=args.n, seed=args.seed, path=args.out)
    return f"{args.out}: {min(args.n, len(data.X))} series and their augmented views"


def demo(args: Namespace) -> str:
    """A first look."""
    out, n = Path(args.out), 1000
    model = bundled.open_model("cbf")
    assert model.labels is not None
    make_folder(out)
    y, began = np.resize(model.labels.names, n), time.perf_counter()
    x = model.generate(n, label=y, seed=0)
    seconds = time.perf_counter() - began
    formats.write(out / "series.npz", x, y)
    real, classes = synthetic.cbf(n, seed=0)
    names = np.array(synthetic.GENERATORS["cbf"].classes)[classes]
    picture = out / "real_beside_generated.png"
    try:
        viz.real_beside_generated(real, x, names, y, path=picture)
        drawn = f"{picture}: some of them beside real ones"
    except ArgumentError as error:  # matplotlib is an extra
        drawn = f"no picture: {error}"
    return (
        f"{n:,} series of {', '.join(model.labels.names)} from the bundled model cbf "
        f"in {seconds:.1f} s ({n / seconds:,.0f} a second)\n"
        f"{out / 'series.npz'}: X {x.shape}, y\n{drawn}\n"
        "next: tsgen generate cbf 10 --label funnel --out new.csv\n"
        "      tsgen fit YOUR_SERIES.csv --out my-model --minutes 10"
    )


def open_model(args: Namespace) -> Model:
    """The model named, on the device named."""
    model = bundled.load(args.model)
    try:
        return model.to(args.device)
    except (RuntimeError, AssertionError) as error:  # what torch raises
        raise bad_value("--device", "a device that is here", f"{args.device!r}: {error}") from error


def read(args: Namespace, split: str | None) -> Collection:
    """The series of args.data."""
    column = args.label_column
    if column is not None and column.lstrip("-").isdecimal():
        column = int(column)
    return formats.read(args.data, split=split, layout=args.layout, label_column=column)


def read_labels(path: str, n: int) -> list[str]:
    """Labels of a text file, one a line."""
    with typed_errors(path):
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    if len(lines) != n:
        raise FileError(f"{path}: wanted {n} lines, a label for each series, got {len(lines)}")
    return [line.strip() for line in lines]


def given(args: Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the arguments that were given; a list of one is the one."""
    values = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in values.items()}


def settings(args: Namespace) -> dict[str, Any]:
    """Those of sampling."""
    return given(args, SETTINGS)


def turns(labels: list[str] | None, n: int) -> Any:
    """One label for all, or several that take turns; digits may name a class by its index."""
    if labels is None:
        return None
    digits = all(label.isdecimal() for label in labels)
    values: list[Any] = [int(label) for label in labels] if digits else labels
    return values[0] if len(values) == 1 else np.resize(values, max(n, 0))


def is_file(out: str) -> bool:
    """Whether --out names a file of data: by its end, unless it is a folder."""
    kind = Path(out.lower().removesuffix(".gz")).suffix
    return (
        kind in (*formats.READ, *formats.WRITE) and not out.endswith("/") and not Path(out).is_dir()
    )


def check_out(path: Path, shape: tuple[int, int], names: Any) -> None:
    """Refuse a file that cannot be written, before any work."""
    arguments.writable_file(path)
    check_writable(path.name, shape, names)
