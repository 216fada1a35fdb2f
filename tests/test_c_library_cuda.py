"""The C ABI on a GPU: the bits of Python's engine cuda_cpp, whose kernels may be built for CPUs."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from c_library import (
    HEADER,
    ROOT,
    Failed,
    built,
    decode,
    encode,
    generate,
    info,
    loaded,
    no_gpu,
    settings,
)
from engines import SHAPES
from tiny_models import smooth_series, tiny_model

from tsgen.engine_cuda_cpp import CudaCppEngine
from tsgen.sampler import Sampler

if why := no_gpu():
    if "TSGEN_LIBRARY" in os.environ and "cuda" in os.environ.get("TSGEN_REQUIRE", ""):
        raise pytest.UsageError(f"TSGEN_REQUIRE names cuda, and libtsgen says: {why}")
    pytest.skip(why, allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GPU = 1  # TSGEN_CUDA


class Python:
    """A model as Python has it on the same backend."""

    def __init__(self, model):
        self.model = model.to(DEVICE)
        self.sampler = Sampler(model.network, strict=False)
        self.sampler.engine = CudaCppEngine(model.network)

    def generate(self, n, *, label=None, seed=0, **how):
        order = self.model.order(n, label, seed, None, how)
        return self.model.series(self.sampler, order.request(slice(None)), order.settings)

    def encode(self, x):
        scaled = torch.from_numpy(self.model.scaler.apply(x))
        return torch.cat(self.sampler.engine.encode(scaled), 1).numpy()

    def decode(self, ids):
        sizes = [
            self.model.config.tokenizer.n_tokens(b) for b in range(len(self.model.config.priors))
        ]
        bands = torch.from_numpy(ids).split(sizes, 1)
        return self.model.unscaled(self.sampler.engine.series(list(bands)))


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_the_same_bits_as_python(sizes, tmp_path):
    model = tiny_model(**sizes)
    model.save(tmp_path / "model")
    python, x = Python(model), smooth_series(5, *model.shape)
    label = np.arange(5) % 3
    with loaded(tmp_path / "model", device=GPU) as mine:
        out = generate(mine, 5, classes=label, seed=2**64 - 1)
        np.testing.assert_array_equal(out, python.generate(5, label=label, seed=2**64 - 1))
        ids = encode(mine, x)
        np.testing.assert_array_equal(ids, python.encode(x))
        np.testing.assert_array_equal(decode(mine, ids), python.decode(ids))


def test_index_and_settings_mean_what_they_mean_in_python(tmp_path):
    model = tiny_model(length=64)
    model.save(tmp_path / "model")
    how = {"temperature": 0.9, "guidance": 1.7, "top_k": 9, "top_p": 0.9, "schedule": "square"}
    bands = {"steps": (4, 2), "choice_temperature": (2.5, 0.5)}
    wanted = Python(model).generate(6, label="bell", **how, **bands)
    with loaded(tmp_path / "model", device=GPU) as mine:
        changed = settings(mine)
        for name in ("temperature", "guidance", "top_k", "top_p"):
            setattr(changed, name, how[name])
        for name, values in bands.items():
            getattr(changed, name)[:] = values
        changed.schedule = 2
        out = generate(mine, 6, classes=[0] * 6, how=changed)
        np.testing.assert_array_equal(out, wanted)
        some = generate(mine, 3, index=[5, 0, 5], classes=[0] * 3, how=changed)
        np.testing.assert_array_equal(some, wanted[[5, 0, 5]])


def test_the_law_of_the_cpu(tmp_path):
    """Tokens of these agree, as rounding decides none of them; series agree to rounding."""
    model = tiny_model(length=48)
    model.save(tmp_path / "model")
    x = smooth_series(12, *model.shape)
    with loaded(tmp_path / "model", device=GPU) as gpu, loaded(tmp_path / "model") as cpu:
        assert info(gpu).n_tokens[:] == info(cpu).n_tokens[:]
        ids = encode(cpu, x)
        assert (encode(gpu, x) == ids).mean() > 0.98
        np.testing.assert_allclose(decode(gpu, ids), decode(cpu, ids), rtol=1e-4, atol=1e-3)
        pairs = generate(gpu, 15, seed=4), generate(cpu, 15, seed=4)
        np.testing.assert_allclose(*pairs, rtol=1e-4, atol=1e-3)


def test_many_threads_use_one_model(tmp_path):
    tiny_model().save(tmp_path / "model")
    with loaded(tmp_path / "model", device=GPU) as model, ThreadPoolExecutor(3) as pool:
        alone = [generate(model, 2, seed=seed) for seed in range(3)]
        drawn = pool.map(lambda seed: generate(model, 2, seed=seed), range(3))
        for out, wanted in zip(drawn, alone, strict=True):
            np.testing.assert_array_equal(out, wanted)


def test_errors(tmp_path):
    model = tiny_model()
    model.save(tmp_path / "whole")
    with loaded(tmp_path / "whole", device=GPU) as mine:
        with pytest.raises(Failed, match=r"BAD_ARGUMENT: class_id: wanted .* to 2, got 3"):
            generate(mine, 1, classes=[3])
        with pytest.raises(Failed, match="BAD_ARGUMENT: ids: wanted 0 to 11 in band 0, got 12"):
            decode(mine, np.full((1, sum(info(mine).n_tokens)), 12))
        with pytest.raises(Failed, match="BAD_ARGUMENT: series: wanted finite numbers"):
            encode(mine, np.full((1, 1, 24), np.nan, dtype=np.float32))
        assert generate(mine, 0).shape == (0, 1, 24)
    with torch.no_grad():
        model.network.priors[0].head_bias.fill_(float("nan"))
    model.save(tmp_path / "damaged")
    with (
        loaded(tmp_path / "damaged", device=GPU) as mine,
        pytest.raises(Failed, match="NOT_FINITE: model: "),
    ):
        generate(mine, 1)
    with (
        pytest.raises(Failed, match=r"BAD_FILE: .*: wanted a folder, got nothing"),
        loaded(tmp_path / "nothing", device=GPU),
    ):
        pass


def test_the_example(tmp_path):
    compiler = shutil.which("c++")
    if not compiler:
        pytest.skip("needs a C++ compiler")
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    flags = ["-std=c++17", f"-I{HEADER.parent}", f"-L{built()}", f"-Wl,-rpath,{built()}"]
    # a library with sanitizers wants what they need from the process, which preloads it
    flags += ["-ltsgen", "-Wl,--allow-shlib-undefined", "-o", tmp_path / "embed"]
    source = ROOT / "examples" / "embed" / "main.cpp"
    subprocess.run([compiler, source, *flags], check=True, env=environment)
    model = tiny_model()
    model.save(tmp_path / "model")
    words = [tmp_path / "embed", tmp_path / "model", "5", "11", "bell", "1", "cuda"]
    done = subprocess.run(words, capture_output=True, check=True)
    assert re.match(rb"tsgen \S+ on cuda: 1 x 24, 3 classes", done.stderr)
    python = Python(model)
    wanted = python.generate(5, label="bell", seed=11)
    ids = python.encode(wanted)
    assert done.stdout == wanted.tobytes() + ids.tobytes() + python.decode(ids).tobytes()
