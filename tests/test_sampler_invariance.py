"""Sample i of a seed is one array, to the bit, whatever else is drawn with it."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

SEED = 2**63 + 11


@pytest.fixture(scope="module")
def model():
    return tiny_model(length=32, tokenizer={"token_width": (8, 8)}, n_codes=(12, 20))


@pytest.fixture(scope="module")
def labels():
    return np.arange(1000) * 7 % 3  # mixed: classes in no order that a batch size divides


@pytest.fixture(scope="module")
def base(model, labels):
    return model.generate(1000, label=labels, seed=SEED)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 64, 1000, None])
def test_does_not_depend_on_the_batch_size(model, labels, base, batch_size):
    n = 1000 if batch_size is None or batch_size > 3 else 130
    batches = list(model.stream(n, label=labels[:n], seed=SEED, batch_size=batch_size))
    assert {len(x) for x in batches[:-1]} <= {batch_size or 64}
    np.testing.assert_array_equal(np.concatenate(batches), base[:n])


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 65])
def test_does_not_depend_on_how_many_are_drawn(model, labels, base, n):
    drawn = model.generate(n, label=labels[:n], seed=SEED, batch_size=n)
    np.testing.assert_array_equal(drawn, base[:n])


def test_does_not_depend_on_order_and_repetition(model, labels, base):
    rng = np.random.default_rng(1)
    index = np.concatenate([rng.permutation(300), rng.integers(0, 1000, 100), [999, 3, 3, 3]])
    drawn = model.generate(indices=index, label=labels[index], seed=SEED)
    np.testing.assert_array_equal(drawn, base[index])
    batches = list(model.stream(indices=index, label=labels[index], seed=SEED, batch_size=9))
    np.testing.assert_array_equal(np.concatenate(batches), base[index])


def test_does_not_depend_on_a_neighbour_s_label(model):
    alone = [model.generate(indices=[3], label=label, seed=2)[0] for label in (0, 1, None)]
    assert not np.array_equal(model.generate(9, label=0), model.generate(9, label=1))
    others = model.generate(10, label=[2, 2, 1, 0, 1, 1, 2, 0, 0, 1], seed=2)
    np.testing.assert_array_equal(others[3], alone[0])
    np.testing.assert_array_equal(model.generate(10, seed=2)[3], alone[2])


def test_does_not_depend_on_the_same_index_under_another_label(model):
    both = model.generate(indices=[3, 5, 3], label=[0, 2, 1], seed=2)
    for row, index, label in zip(both, [3, 5, 3], [0, 2, 1], strict=True):
        alone = model.generate(indices=[index], label=label, seed=2)
        np.testing.assert_array_equal(row, alone[0])


def test_holds_far_out_and_across_the_32_bit_line(model):
    index = [2**32 - 1, 2**32, 2**62 - 1, 0]
    drawn = model.generate(indices=index, label="bell", seed=3)
    for i, row in zip(index, drawn, strict=True):
        alone = model.generate(indices=[i], label="bell", seed=3)
        np.testing.assert_array_equal(row, alone[0])
    assert len(np.unique(drawn, axis=0)) == 4


def test_holds_under_guidance_and_other_settings(model, labels):
    how = {"seed": 4, "guidance": 2.0, "top_p": 0.9, "temperature": 1.2, "schedule": "square"}
    drawn = model.generate(70, label=labels[:70], **how)
    for i in (0, 63, 69):
        alone = model.generate(indices=[i], label=labels[i], **how)
        np.testing.assert_array_equal(alone[0], drawn[i])


def test_several_threads_draw_the_same_from_one_model(model, labels, base):
    def part(first):
        index = np.arange(first, first + 100)
        return model.generate(indices=index, label=labels[index], seed=SEED)

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(part, range(0, 400, 100)))
    np.testing.assert_array_equal(np.concatenate(parts), base[:400])


def test_sampling_neither_reads_nor_moves_the_global_generators(model, base, labels):
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
        drawn = model.generate(70, label=labels[:70], seed=SEED)
        model.impute(np.where(np.arange(32) < 9, np.nan, drawn), label=labels[:70])
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        np.testing.assert_equal(np.random.get_state(), before[2])  # noqa: NPY002
        np.testing.assert_array_equal(drawn, base[:70])


def test_loose_mode_draws_the_same_series_but_for_rounding(model, labels, base):
    loose = model.generate(300, label=labels[:300], seed=SEED, strict=False)
    close = np.isclose(loose, base[:300], rtol=1e-4, atol=1e-4).all(axis=(1, 2))
    assert close.mean() >= 0.99
