"""benchmarks/gpu.py, tried on the CPU: what it measures, writes and refuses."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tsgen import dispatch, sampler

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import gpu  # noqa: E402
import gpu_decoding  # noqa: E402
import gpu_ops  # noqa: E402
import gpu_report  # noqa: E402
import gpu_timing  # noqa: E402

TOP = {"gb_per_s": 10.0, "gflop_per_s": {"float32": 50.0, "bfloat16": 50.0}}
STFT = gpu_ops.Case("stft", (3, 2, 61, 8, 2, 0, 5), torch.float32)


@pytest.fixture
def native():
    if why := dispatch.obstacle("stft", "cpu", "cpu", torch.float32):
        pytest.skip(f"backend cpu {why}")


def test_smoke(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "stft", "keep_confident", "--smoke"]
    subprocess.run([*command, "--out", str(out)], check=True)
    found = json.loads(out.read_text())
    assert {"about", "ceilings", "ops", "decoding"} == set(found)
    assert {"cpu", "torch", "tsgen", "commit", "date", "device"} <= set(found["about"])
    assert set(found["ceilings"]["gflop_per_s"]) == {"float32", "tf32", "bfloat16"}
    assert found["ceilings"]["launch_us"]["host"] > 0
    assert {(row["op"], row["dtype"]) for row in found["ops"].values()} == {
        ("stft", "torch.bfloat16"),
        ("stft", "torch.float32"),
        ("keep_confident", "torch.float32"),
    }
    for row in found["ops"].values():
        assert row["floor_ms"] > 0
        assert row["bound_by"] in ("bytes", "flops")
        assert ("forward + backward" in row) == (row["op"] == "stft")
        times = row["forward"]["torch"]
        assert 0 < times["p20_ms"] <= times["p50_ms"] <= times["p80_ms"]
        assert len(times["all_ms"]) >= gpu_timing.FEWEST_ROUNDS
        assert times["of_floor"] == pytest.approx(row["floor_ms"] / times["p50_ms"])
    assert "p50_ms" in found["ops"][str(STFT)]["forward"]["torch.stft"]
    assert "p50_ms" in found["ops"][str(STFT)]["forward + backward"]["torch.stft"]


def test_smoke_writes_no_results():
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--smoke"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--smoke needs --out, outside of benchmarks/results" in done.stderr


@pytest.mark.parametrize("wrong", ["stft", "stft_backward"])
def test_a_wrong_kernel_is_not_timed(native, monkeypatch, capsys, wrong):
    load = dispatch.load

    def off_by_a_little(op, backend):
        run = load(op, backend)
        if (op, backend) != (wrong, "cpu"):
            return run
        return lambda *inputs: run(*inputs) + 1e-2

    monkeypatch.setattr(dispatch, "load", off_by_a_little)
    row = gpu_ops.measured(STFT, gpu.SMOKE, TOP)
    part = "forward" if wrong == "stft" else "forward + backward"
    assert row[part]["cpu"]["why"].startswith("is wrong: its error is ")
    assert "p50_ms" not in row[part]["cpu"]
    assert "p50_ms" in row[part]["torch"]
    assert gpu.told({"ops": {"it": row}}) == 1
    assert f"it {part}: cpu is wrong" in capsys.readouterr().out


def test_nan_is_wrong(native, monkeypatch):
    nothing = torch.full((3, 4, 5, 31), torch.nan)
    monkeypatch.setitem(gpu_ops.gpu_rivals.TRANSFORMS, "stft", ("it", lambda *_: nothing))
    rival = gpu_ops.gpu_rivals.Rival(lambda: nothing, lambda out: float(out.sum()))
    monkeypatch.setattr(gpu_ops.gpu_rivals, "rivals", lambda *_: {"it": rival})
    assert "is wrong" in gpu_ops.forward("stft", [inputs(STFT)], gpu.SMOKE)["it"]["why"]


def inputs(case):
    return gpu_ops.inputs_of(case.op, case.shape, "cpu", case.dtype)


def test_repeated_rows_are_laid_out_as_the_drawn_ones(monkeypatch):
    monkeypatch.setattr(gpu_ops, "DRAWN", 2 * 5 * 8 * 3)  # 3 rows of the 12
    q, k, v, *_, lengths = inputs(
        gpu_ops.Case("attention", (12, 2, 5, 5, 8, True, True, True), torch.float32)
    )
    assert q.shape == (12, 2, 5, 8)
    assert (
        q.stride()
        == dispatch.module("attention")
        .make_inputs((12, 2, 5, 5, 8, True, True, True), "cpu", torch.float32)[0]
        .stride()
    )
    assert q.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()
    assert torch.equal(k[:3], k[9:])
    assert not torch.equal(k[:3], k[1:4])
    assert torch.equal(lengths[:3], lengths[3:6])


def test_first_and_last_rows_are_compared(native, monkeypatch):
    monkeypatch.setattr(gpu_ops, "COMPARED", 2 * 61)  # 2 of the 3 series
    assert torch.equal(gpu_ops.few("stft", inputs(STFT))[0], inputs(STFT)[0][[0, 2]])
    load = dispatch.load

    def wrong_at_the_end(op, backend):
        def run(*args):
            out = load(op, backend)(*args)
            out[-1] += 1
            return out

        return run if backend == "cpu" else load(op, backend)

    monkeypatch.setattr(dispatch, "load", wrong_at_the_end)
    assert "is wrong" in gpu_ops.forward("stft", [inputs(STFT)], gpu.SMOKE)["cpu"]["why"]


def test_whole_loops(native):
    for model, rivals in (("one band", "engines"), ("timevqvae", "engines")):
        loop = gpu_decoding.Loop(model, 5, rivals)
        runs = gpu_decoding.measured(loop, gpu.SMOKE)["runs"]
        assert len(runs) > len(sampler.ENGINES)
        for name in ("engine torch", "engine cpu", "engine torch, plain PyTorch"):
            assert runs[name]["series_per_s"] > 0
            assert runs[name]["same_series"] == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiled_loop_keeps_to_the_law():
    torch.compiler.reset()
    loop = gpu_decoding.Loop("one band", 300, "torch.compile")
    row = gpu_decoding.measured(loop, gpu.SMOKE)["runs"]["torch.compile, bfloat16"]
    assert row["series_per_s"] > 0
    assert abs(row["nats_apart"]) < gpu_decoding.NATS


def test_a_loop_of_another_law_is_not_timed(native, monkeypatch):
    monkeypatch.setattr(
        sampler.ENGINES["cpu"], "tokens", lambda self, request, _: [torch.zeros(5, 8).long()]
    )
    loop = gpu_decoding.Loop("one band", 5, "engines")
    row = gpu_decoding.measured(loop, gpu.SMOKE)["runs"]["engine cpu"]
    assert row["why"].startswith("is wrong")
    assert "p50_ms" not in row


class FakeGpu:
    """What gpu_timing asks of torch.cuda: a clock of 1 ms a call, and a log."""

    def __init__(self):
        self.ms, self.log, self.strict = 0.0, [], False

    def run(self):
        self.ms += 1
        self.log.append("run")

    def waits(self):
        if self.strict:
            raise RuntimeError("called a synchronizing CUDA operation")
        self.run()

    def full(self):
        raise torch.OutOfMemoryError("of 80 GiB, none")

    def graph(self, graph, pool):
        return graph

    def install(self, monkeypatch):
        fake = self

        class Event:
            def __init__(self, enable_timing):
                pass

            def record(self):
                self.at = fake.ms

            def synchronize(self):
                pass

            def elapsed_time(self, end):
                return end.at - self.at

        class Graph:
            def __enter__(self):
                self.first = fake.ms

            def __exit__(self, *_):
                self.ms = fake.ms - self.first

            def replay(self):
                fake.ms += self.ms
                fake.log.append("replay")

        class Stream:
            def __enter__(self): ...

            def __exit__(self, *_): ...

        def mode(name):
            self.strict = name == "error"

        cuda = {"Event": Event, "CUDAGraph": Graph, "Stream": Stream, "graph": self.graph}
        cuda |= {"stream": lambda stream: stream, "set_sync_debug_mode": mode}
        cuda |= {"graph_pool_handle": object, "synchronize": lambda: None}
        for name, value in (cuda | {"empty_cache": lambda: None}).items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(gpu_timing, "side_stream", Stream)
        monkeypatch.setattr(gpu_timing, "beyond_cache", lambda: torch.ones(1))


def test_what_waits_is_not_captured(monkeypatch):
    fake = FakeGpu()
    fake.install(monkeypatch)
    rivals = {"fast": lambda: [fake.run] * 3, "waits": lambda: [fake.waits], "full": fake.full}
    rows = gpu_timing.in_turn(rivals, "cuda", 0.1)
    assert list(rows) == ["fast", "waits", "full"]
    assert rows["full"] == {"why": "needs more memory than there is"}
    assert rows["fast"]["how"] == "CUDA graph"
    assert rows["fast"]["calls"] == 3  # each of the inputs once
    assert rows["waits"]["how"] == "eager calls"
    assert rows["waits"]["calls"] == 2  # as many as fill 2 ms
    assert rows["fast"]["all_ms"] == rows["waits"]["all_ms"] == [1.0] * 20
    assert fake.log[-6:] == ["replay", "run", "run"] * 2


def test_another_process_takes_over(tmp_path, monkeypatch):
    out, begun = tmp_path / "gpu.json", []

    def dies_twice(command, check, timeout):
        found = json.loads(out.read_text())
        found |= {"ceilings": {}} if not begun else {}
        found["ops"][f"case {len(begun)}"] = {"op": "stft", **gpu.BEGAN}
        out.write_text(json.dumps(found))
        begun.append(command)
        if len(begun) == 2:
            raise subprocess.TimeoutExpired(command, timeout)
        return SimpleNamespace(returncode=0 if len(begun) == 3 else -11)

    monkeypatch.setattr(subprocess, "run", dies_twice)
    args = argparse.Namespace(out=out, ops=[], smoke=True, until=time.time() + 60)
    assert gpu.drive(args) == 0
    assert len(begun) == 3
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    assert gpu.drive(args) == 1  # no process got anywhere


def test_what_there_is_no_time_for_is_left_out(tmp_path):
    out = tmp_path / "gpu.json"
    gpu.save(out, {"ops": {}, "decoding": {}, "ceilings": TOP})
    gpu.work(argparse.Namespace(out=out, ops=["stft"], until=0), gpu.SMOKE)
    assert json.loads(out.read_text())["ops"][str(STFT)] == gpu.LATE


def test_report(native):
    about = {"device": "GPU", "driver": "1", "cuda": "2", "torch": "3", "triton": "4", "date": "5"}
    top = TOP | {"launch_us": {"host": 5.0, "graph node": 1.0}}
    row = gpu_ops.measured(STFT, gpu.SMOKE, TOP)
    row["forward"]["triton"] = row["forward"]["cpu"]
    loop = {"runs": {"engine cuda": {"why": "it is not there"}}}
    found = {"about": about, "ceilings": top, "ops": {str(STFT): row}, "decoding": {"all": loop}}
    text = "\n".join(gpu_report.page(found))
    assert f"| {STFT} forward | triton | " in text
    assert "| all | engine cuda | it is not there |" in text
    assert gpu_report.NOTHING not in text
    assert gpu_report.NOTHING in "\n".join(gpu_report.page({}))
    assert "GPU, driver 1" in "\n".join(gpu_report.sentence(found))


def test_cuda_goes_first_where_it_was_faster():
    def case(dtype: str, *ms: tuple[float | None, float]) -> dict[str, object]:
        parts = zip(gpu_report.PARTS, ms, strict=False)
        rows = {
            part: {
                "cuda": {"p50_ms": cuda} if cuda else {"why": "it failed"},
                "triton": {"p50_ms": triton},
            }
            for part, (cuda, triton) in parts
        }
        return {"op": "snake", "dtype": dtype} | rows

    found = {
        "ops": {
            "one": case("torch.float32", (1.0, 3.0), (2.0, 1.0)),
            "other": case("torch.float32", (1.0, 1.0)),
            "slower": case("torch.bfloat16", (2.0, 1.0)),
            "failed": case("torch.float16", (None, 1.0)),
            "nothing": {"why": "no time left"},
        },
        "decoding": {
            "few": {
                "runs": {
                    "engine cuda, bfloat16, by bands": {"p50_ms": 1.0},
                    "engine cuda, bfloat16, by parts": {"p50_ms": 1.5},
                }
            },
            "many": {"why": "no time left"},
        },
    }
    faster = {"snake": ("float32",), "decode": ("bfloat16",)}
    assert gpu_report.cuda_is_faster(found) == faster
    assert gpu_report.cuda_is_faster({}) == {}
