"""The native engine against engine torch: the same tokens and series on every instruction set."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from engines import SHAPES, law, same_series
from test_sampler import CASES, N_SERIES, case, partly_known, request
from tiny_models import tiny_config, tiny_model, tiny_network

from tsgen.config import SamplingConfig
from tsgen.engine_cpu import CpuEngine, folded
from tsgen.engine_torch import TorchEngine
from tsgen.errors import ArgumentError
from tsgen.sampler import Sampler

if why := CpuEngine.obstacle(tiny_network()):
    pytest.skip(f"engine cpu {why}", allow_module_level=True)


def test_draws_the_tokens_of_the_float64_law(isa):
    same = total = 0
    for name in CASES:
        for some_known in (False, True):
            network, asked, settings, exact = law(name, some_known)
            single = CpuEngine(network).tokens(asked, settings)
            same, total = same + same_series(exact, single), total + N_SERIES
    assert same >= 0.999 * total, f"{same} of {total}"


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_decodes_as_the_tokenizer_does(sizes, isa):
    network = tiny_network(tiny_config(**sizes))
    rng = torch.Generator().manual_seed(0)
    ids = [
        torch.randint(0, prior.n_codes, (37, prior.n_tokens), generator=rng)
        for prior in network.each_prior()
    ]
    single = TorchEngine(network).series(ids)
    got = CpuEngine(network).series(ids)
    wanted = TorchEngine(network.double()).series(ids)
    # random weights make an error grow from layer to layer: it may grow as much as PyTorch's does
    error, usual = (float((x - wanted).abs().amax()) for x in (got, single))
    assert error <= 4 * usual + 1e-6


def test_is_what_auto_takes_and_says_why_not():
    network = tiny_network()
    assert isinstance(Sampler(network).engine, CpuEngine)
    with pytest.raises(ArgumentError, match=r"engine: wanted .*, got 'cpu', which takes float32"):
        Sampler(tiny_network().double(), engine="cpu")


def test_sees_that_weights_have_changed():
    model = tiny_model()
    before = model.generate(5, seed=1)
    np.testing.assert_array_equal(model.generate(5, seed=1), before)
    with torch.no_grad():
        for prior in model.network.each_prior():
            prior.head_bias[0] += 100
    assert len(np.unique(model.generate(5, seed=1), axis=0)) == 1


def test_does_not_depend_on_threads_or_neighbours():
    model = tiny_model(length=64)
    threads, index = torch.get_num_threads(), np.arange(90)
    label = index % 3
    try:
        torch.set_num_threads(1)
        base = model.generate(90, label=label, seed=5, guidance=1.5)
        for n in (2, 3, 8):
            torch.set_num_threads(n)
            np.testing.assert_array_equal(
                model.generate(90, label=label, seed=5, guidance=1.5), base
            )
    finally:
        torch.set_num_threads(threads)
    for i in (0, 17, 89):
        alone = model.generate(indices=[i], label=label[i], seed=5, guidance=1.5)
        np.testing.assert_array_equal(alone[0], base[i])


def test_works_in_a_forked_child():
    model = tiny_model()
    wanted = model.generate(70, seed=3)
    torch.set_num_threads(2)
    try:
        model.generate(70, seed=3)  # on threads that the child will not have
        child = os.fork()
        if child == 0:
            same = np.array_equal(model.generate(70, seed=3), wanted)
            os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(1)


SLOW = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may ignore it
sys.path.insert(0, {tests!r})
from tiny_models import tiny_model
model = tiny_model(length=512, tokenizer={{"token_width": (64, 256)}})
print("go", flush=True)
model.generate(10**6, steps=(100, 100))
"""


def test_ctrl_c_stops_it():
    code = SLOW.format(tests=os.path.dirname(__file__))  # noqa: PTH120
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        try:
            assert process.stdout.readline() == "go\n"
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)  # what is left takes hours
        finally:
            process.kill()
    assert "KeyboardInterrupt" in error


def test_refuses_weights_that_its_configuration_does_not_have():
    network = tiny_network()
    state, config = network.state_dict(), network.config.to_dict()
    folded(config, state, 1)
    name = "priors.1.blocks.0.feed_forward.up.weight"
    without = {n: t for n, t in state.items() if n != name}
    with pytest.raises(ValueError, match=f"{name}: wanted a tensor, got none"):
        folded(config, without, 2)
    other = state | {name: state[name].T}
    with pytest.raises(ValueError, match=rf"{name}: wanted \(10, 8\), got \(8, 10\)"):
        folded(config, other, 1)
    config["n_classes"] = -1
    with pytest.raises(ValueError, match=r"n_classes: wanted a whole number from 0 to .*, got -1"):
        folded(config, state, 1)


def test_refuses_ids_that_are_not_there():
    network, _, settings = case("10 steps")
    engine = CpuEngine(network)
    with pytest.raises(ArgumentError, match="class_B: wanted ids from 0 to 3, got 0 to 4"):
        engine.tokens(request([0, 4]), settings)
    known = partly_known(network, 2)
    known[1][0, 0] = 21
    with pytest.raises(ArgumentError, match="known: wanted ids from 0 to 20"):
        engine.tokens(request([0, 1], known), settings)
    ids = engine.tokens(request([0, 1]), settings)
    ids[0][0, 0] = 12
    with pytest.raises(ArgumentError, match="ids: wanted ids from 0 to 11"):
        engine.series(ids)


def test_settings_of_two_bands_are_their_own():
    network, classes, _ = case("unequal steps")
    asked = request(classes)
    few = SamplingConfig(steps=(1, 9), choice_temperature=(0.0, 9.0))
    exact = TorchEngine(network).tokens(asked, few)
    assert same_series(exact, CpuEngine(network).tokens(asked, few)) >= N_SERIES - 1
