"""`tsgen bench` and `tsgen profile`: what they measure, print, write and refuse."""

import json

import numpy as np
import pytest
import torch
from tiny_models import tiny_model, tiny_network

from tsgen import bench, dispatch, measure, profile, sampler
from tsgen.cli import main
from tsgen.engine_cpu import CpuEngine
from tsgen.request import Request
from tsgen.spans import NOTHING, span

# of engine cuda alone
FUSED = {"draw_uniforms", "embed_tokens", "norm_linear", "linear_norm", "feed_forward"}
FUSED |= {"remask_tokens", "transformer_block"}
CPU = [torch.profiler.ProfilerActivity.CPU]


@pytest.fixture
def small(monkeypatch):
    """One small benchmark shape an op."""
    for op in dispatch.TABLE:
        module = dispatch.module(op)
        monkeypatch.setattr(module, "BENCH_SHAPES", module.TEST_SHAPES[3:4])


@pytest.fixture
def native():
    if why := dispatch.obstacle("stft", "cpu", "cpu", torch.float32):
        pytest.skip(f"backend cpu {why}")


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model(length=32).save(tmp_path / "model")
    return tmp_path


def test_bench(work, small, native, capsys):
    line = "bench --model model --n 70 --rounds 2 --threads 1 --json found.json"
    assert main([*line.split(), "--op", *dispatch.TABLE]) == 0
    text = capsys.readouterr().out
    found = json.loads((work / "found.json").read_text())
    assert set(found) == {"machine", "ceilings", "ops", "sampling"}
    assert {(row["op"], row["backend"]) for row in found["ops"]} >= {
        (op, backend) for op, columns in dispatch.TABLE.items() for backend in columns
    }
    for row in found["ops"]:
        if row["device"] == "cpu":
            assert len(row["all_s"]) == 2
            assert 0 < row["p20_s"] <= row["p50_s"] <= row["p80_s"]
            assert ("of_ceiling" in row) == (row["what"] == "forward")
    both = {row["op"] for row in found["ops"] if row.get("what") == "forward + backward"}
    assert both == {op for op in dispatch.TABLE if dispatch.module(op).DIFFERENTIABLE}
    assert {row["engine"] for row in found["sampling"]} == set(sampler.ENGINES)
    assert text == bench.report(found) + "\n"
    assert "torch.mm reaches" in text
    assert f"stft {(2, 3, 127, 4, 1, 1, 3)} forward" in text


def test_an_op_alone_times_no_sampling(small, capsys):
    before = torch.get_num_threads()
    found = bench.run(["philox"], None, 1, 1, before + 1)
    assert "sampling" not in found
    assert found["machine"]["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_a_wrong_kernel_is_not_timed(small, native, monkeypatch):
    load = dispatch.load

    def off_by_a_little(op, backend):
        run = load(op, backend)
        return (lambda *inputs: run(*inputs) + 1e-3) if backend == "cpu" else run

    monkeypatch.setattr(dispatch, "load", off_by_a_little)
    rows = bench.time_ops(["stft"], 1)["ops"]
    (wrong,) = (row for row in rows if row["backend"] == "cpu")
    assert "p50_s" not in wrong
    assert wrong["why"].startswith("is wrong: its error is ")
    assert wrong["why"] in bench.report({"machine": measure.machine(), "ops": rows})


def test_what_cannot_run_says_why(small, monkeypatch):
    monkeypatch.setitem(dispatch.TABLE, "stft", {**dispatch.TABLE["stft"], "cuda": (torch.half,)})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = bench.time_ops(["stft"], 1)["ops"]
    unable = {row["backend"]: row["why"] for row in rows if "why" in row}
    assert unable["cuda"] == "takes torch.float16, not torch.float32"
    real = dispatch.obstacle
    able = lambda *cell: None if cell[1] == "triton" else real(*cell)  # noqa: E731
    monkeypatch.setattr(dispatch, "obstacle", able)
    rows = bench.time_ops(["stft"], 1)["ops"]
    assert {"op": "stft", "device": "cuda", "backend": "triton", "why": "needs a GPU"} in rows
    why = "does not load: no libhappiness"
    monkeypatch.setattr(CpuEngine, "obstacle", staticmethod(lambda network: why))
    rows = bench.time_engines(tiny_model(), 3, 1)
    assert [row.get("why") for row in rows if row["engine"] == "cpu"] == [why]
    text = bench.report({"machine": measure.machine(), "sampling": rows})
    assert f"cpu     {why}" in text


def test_exact_tolerances_of_zero():
    inputs = dispatch.module("keep_confident").make_inputs((5, 7), "cpu", torch.float32)
    assert measure.mismatch("keep_confident", "torch", inputs) == 0


def ranges(path):
    events = json.loads(path.read_text())["traceEvents"]
    return {event["name"] for event in events if event.get("name", "").startswith("tsgen::")}


def test_profile_of_engine_torch(work, capsys):
    line = "profile model --engine torch --n 3 --train 1 --out trace.json"
    assert main(line.split()) == 0
    text = capsys.readouterr().out
    assert text.endswith("trace.json: open it in https://ui.perfetto.dev or chrome://tracing\n")
    wanted = {"sampling", "prior band 0", "prior band 1", "context", "embedding", "transformer"}
    wanted |= {"head and choice", "decoder", "forward", "backward", "update", "train prior_1"}
    wanted |= set(dispatch.TABLE) - FUSED - {"masked_cross_entropy"}  # whose derivative is both
    assert ranges(work / "trace.json") >= {f"tsgen::{name}" for name in wanted}
    for name in wanted:
        assert f"tsgen::{name} " in text


def test_profile_of_engine_cpu(work, native, capsys):
    assert main(["profile", "model", "--n", "3"]) == 0
    assert ranges(work / "trace.json") == {"tsgen::sampling", "tsgen::priors", "tsgen::decoder"}


def test_baselines_have_ranges_too(tmp_path):
    x = torch.randn(2, 1, 16)

    def run():
        dispatch.call(
            "stft", dispatch.module("stft").baseline, x, torch.ones(4), 1, 0, 3, like=x,
            backend="torch",
        )  # fmt: skip

    table = profile.trace({"run": run}, tmp_path / "trace.json").splitlines()
    assert [line.split()[0] for line in table] == ["range", "tsgen::run", "tsgen::stft"]
    assert table[2].split()[-1] == "1"


def test_series_do_not_change_while_profiled(native):
    network = tiny_network()
    engine = sampler.Sampler(network, engine="cpu").engine
    settings = network.config.sampling
    request = Request(np.arange(70), np.arange(70) % 4, seed=3)
    ids, series = engine.draw(request, settings)
    with torch.profiler.profile(activities=CPU):
        same_ids, same = engine.draw(request, settings)
    assert torch.equal(series, same)
    assert all(map(torch.equal, ids, same_ids))


def test_a_span_is_nothing_unless_profiled():
    assert span("stft") is NOTHING
    with torch.profiler.profile(activities=CPU) as profiler, span("here"):
        torch.ones(2)
    assert "tsgen::here" in {event.name for event in profiler.events()}


def test_a_span_does_not_break_a_graph():
    torch.compiler.reset()

    def function(x):
        with span("here"):
            return x + 1

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 2.0))
    again = torch.compiler.set_stance("fail_on_recompile")
    with torch.profiler.profile(activities=CPU), again:
        compiled(torch.ones(2))


REFUSED = {
    "bench --op nobody": "op: wanted one of",
    "bench --op philox --rounds 0": "rounds: wanted",
    "bench --op philox --threads 0": "threads: wanted",
    "bench --model nobody": "nobody",
    "bench --op philox --json no/a.json": "wanted a file in a folder",
    "bench --op philox --json model": "got a folder",
    "profile model --n 0": "n: wanted",
    "profile model --train -1": "train: wanted",
    "profile model --engine nobody": "engine: wanted one of",
    "profile model --out no/trace.json": "wanted a file in a folder",
    "profile nobody": "nobody",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused_in_one_line(work, capsys, line):
    before = sorted(work.iterdir())
    assert main(line.split()) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert REFUSED[line] in error
    assert sorted(work.iterdir()) == before
