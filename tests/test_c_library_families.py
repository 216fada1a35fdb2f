"""What the C ABI makes of models that only Python has, and of codes that are a grid."""

import json

import numpy as np
import pytest
import torch
from c_library import Failed, decode, encode, loaded
from test_quantisers import FSQ_SIZES, RESIDUAL_SIZES
from test_vae import model as vae_model
from tiny_models import smooth_series, tiny_model


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: tiny_model(**RESIDUAL_SIZES), 'a code for each place, got "residual"'),
        (vae_model, 'family: wanted "vq", a model of tokens, got "vae"'),
    ],
    ids=["residual", "vae"],
)
def test_says_what_it_does_not_take(made, reason, tmp_path):
    made().save(tmp_path / "model")
    with pytest.raises(Failed, match=f"UNSUPPORTED: .*{reason}"), loaded(tmp_path / "model"):
        pass


def test_levels_that_do_not_fit_are_a_damaged_file(tmp_path):
    tiny_model(**FSQ_SIZES).save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    for levels, reason in (
        ([5, 4], "levels: wanted 3"),
        ([5, 4, 2], "levels: wanted a whole number from 3 to 64"),
        ([5, 4, 65], "levels: wanted a whole number from 3 to 64"),
        ([5, 4, 4], "n_codes: wanted the product of levels, got 60"),
        ([64, 64, 64], "n_codes: wanted the product of levels, got 60"),
    ):
        values = json.loads(path.read_text())
        values["config"]["model"]["tokenizer"]["levels"] = levels
        path.write_text(json.dumps(values))
        with pytest.raises(Failed, match=f"BAD_FILE: .*{reason}"), loaded(tmp_path / "model"):
            pass


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("n_quantisers", 65, "n_quantisers: wanted a whole number from 2 to 64"),
        ("restart_below", 1.5, "restart_below: wanted a finite number from 0"),
    ],
)
def test_settings_that_python_refuses_are_a_damaged_file(name, value, reason, tmp_path):
    tiny_model().save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    values = json.loads(path.read_text())
    values["config"]["model"]["tokenizer"][name] = value
    path.write_text(json.dumps(values))
    with pytest.raises(Failed, match=f"BAD_FILE: .*{reason}"), loaded(tmp_path / "model"):
        pass


def test_finds_the_levels_that_python_finds(tmp_path):
    """Tokens all over the grid: the projection is scaled as the first batch of training does."""
    model = tiny_model(length=64, **FSQ_SIZES)
    x = smooth_series(50, 1, 64) + np.random.default_rng(0).normal(0, 3, (50, 1, 64))
    x = x.astype(np.float32)
    model.network.tokenizer.train()(torch.from_numpy(model.scaler.apply(x)))
    model.network.eval()
    model.save(tmp_path / "model")
    ids = model.encode(x)
    assert len(np.unique(ids)) > 40
    with loaded(tmp_path / "model") as ours:
        np.testing.assert_array_equal(encode(ours, x), ids)
        np.testing.assert_array_equal(decode(ours, ids), model.decode(ids))
