"""Folders of config.json and model.safetensors: what is written comes back."""

import json

import pytest
import safetensors.torch
import torch
from checkpoints import PLAIN, names, same, version, version_of

from tsgen.checkpoint import CONFIG, MAX_DEPTH, WEIGHTS, check_tensors, read_folder, write_folder
from tsgen.errors import ArgumentError, FileError
from tsgen.version import __version__
from tsgen.weights import DTYPES

SETTINGS = {"a": [1, 2.5, None, True], "b": {"name": "é\u2028\x00"}, "c": ""}


def some(dtype, shape):
    """A tensor of random bits."""
    n = torch.Size(shape).numel() * dtype.itemsize
    rng = torch.Generator().manual_seed(n)
    return (
        torch.randint(2 if dtype == torch.bool else 256, (n,), generator=rng)
        .byte()
        .view(dtype)
        .reshape(shape)
    )


TENSORS = {
    f"{name}.{len(shape)}.{0 in shape}": some(dtype, shape)
    for name, dtype in DTYPES.items()
    for shape in ((), (3,), (0,), (2, 3, 5), (4, 0, 7))
}


@pytest.mark.parametrize("kind", ["model", "training"])
def test_round_trip(tmp_path, kind):
    path = tmp_path / "new" / "model"
    write_folder(path, SETTINGS, TENSORS, kind=kind)
    config, tensors = read_folder(str(path), kind=kind)
    assert config == SETTINGS
    assert same(tensors, TENSORS)
    assert names(path) == PLAIN
    with pytest.raises(FileError, match="kind"):
        read_folder(path, kind="training" if kind == "model" else "model")


def test_tensors_have_memory_of_their_own(tmp_path):
    write_folder(tmp_path, {}, TENSORS, kind="model")
    tensors = read_folder(tmp_path, kind="model")[1]
    assert len({t.untyped_storage().data_ptr() for t in tensors.values() if t.numel()}) == sum(
        t.numel() > 0 for t in tensors.values()
    )
    assert all(t.data_ptr() % 64 == 0 for t in tensors.values())


def test_config_json_says_what_is_promised_and_others_read_the_weights(tmp_path):
    write_folder(tmp_path, SETTINGS, TENSORS, kind="model")
    document = json.loads((tmp_path / CONFIG).read_text())
    assert (document["schema"], document["kind"], document["tsgen"]) == (1, "model", __version__)
    assert document["weights"]["file"] == WEIGHTS
    assert document["weights"]["bytes"] == (tmp_path / WEIGHTS).stat().st_size
    assert same(safetensors.torch.load_file(tmp_path / WEIGHTS), TENSORS)


def test_views_and_shared_memory_are_written_in_full(tmp_path):
    x = torch.arange(12.0).reshape(3, 4).requires_grad_()
    tensors = {"x": x, "again": x, "row": x[1], "turned": x.T, "wide": x[:1].expand(5, 4)}
    write_folder(tmp_path, {}, tensors, kind="training")
    assert same(
        read_folder(tmp_path, kind="training")[1],
        {k: v.detach().contiguous() for k, v in tensors.items()},
    )


def test_nothing_at_all_can_be_written(tmp_path):
    write_folder(tmp_path, {}, {}, kind="model")
    assert read_folder(tmp_path, kind="model") == ({}, {})


def test_overwriting_keeps_other_files_and_the_plain_names(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("mine")
    (tmp_path / "training").mkdir()
    for i in (1, 2, 2, 1):  # the same one twice too
        write_folder(tmp_path, *version(i), kind="model")
        assert version_of(tmp_path) == i
        assert names(tmp_path) == PLAIN | {"metrics.jsonl", "training"}


@pytest.mark.parametrize("foreign", [CONFIG, WEIGHTS])
def test_what_is_not_ours_is_not_overwritten(tmp_path, foreign):
    (tmp_path / foreign).write_text("{}")
    with pytest.raises(FileError, match="wanted"):
        write_folder(tmp_path, {}, {}, kind="model")
    assert names(tmp_path) == {foreign}
    assert (tmp_path / foreign).read_text() == "{}"


def test_another_kind_is_not_overwritten(tmp_path):
    write_folder(tmp_path, {}, {}, kind="training")
    with pytest.raises(FileError, match="kind 'model'"):
        write_folder(tmp_path, {}, {}, kind="model")
    read_folder(tmp_path, kind="training")


def nested(depth):
    return {} if depth == 1 else {"a": nested(depth - 1)}


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        ({"a": float("nan")}, {}),
        ({"a": float("inf")}, {}),
        ({"a": object()}, {}),
        ({"a": "x" * 10**6}, {}),
        (nested(MAX_DEPTH), {}),  # one more inside the document
        ({}, {"a": [1.0]}),
        ({}, {"a": torch.zeros(2, device="meta")}),
        ({}, {"a": torch.zeros(2, 2).to_sparse()}),
        ({}, {"a": torch.zeros(2, dtype=torch.complex64)}),
        ({}, {"__metadata__": torch.zeros(2)}),
        ({}, {1: torch.zeros(2)}),
        ({}, {f"{i:0200}": torch.zeros(0) for i in range(9000)}),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, config, tensors):
    write_folder(tmp_path / "old", *version(1), kind="model")
    for name in ("old", "new"):
        with pytest.raises((ArgumentError, FileError)):
            write_folder(tmp_path / name, config, tensors, kind="model")
    assert names(tmp_path) == {"old"}
    assert names(tmp_path / "old") == PLAIN
    assert version_of(tmp_path / "old") == 1


def test_deepest_config(tmp_path):
    write_folder(tmp_path, nested(MAX_DEPTH - 1), {}, kind="model")
    assert read_folder(tmp_path, kind="model")[0] == nested(MAX_DEPTH - 1)


def test_check_tensors_lists_what_differs(tmp_path):
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(2), "c": torch.zeros(1)}
    wanted = {k: (v.shape, v.dtype) for k, v in tensors.items()}
    check_tensors(tensors, wanted, tmp_path)
    wanted |= {"a": (torch.Size((3, 2)), torch.float32), "b": (torch.Size((2,)), torch.float64)}
    wanted["d"] = wanted.pop("c")
    with pytest.raises(FileError, match="4 tensors") as error:
        check_tensors(tensors, wanted, tmp_path)
    for part in (str(tmp_path), "'a': wanted (3, 2)", "'b'", "'d' is missing", "'c' is unexp"):
        assert part in str(error.value)
    with pytest.raises(FileError, match="100 tensors") as error:
        check_tensors({f"x{i}\n": torch.zeros(1) for i in range(100)}, {}, tmp_path)
    assert str(error.value).count("unexpected") == 5
    assert "\n" not in str(error.value)
