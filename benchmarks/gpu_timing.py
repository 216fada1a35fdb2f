"""How runs are timed on a GPU: replays of CUDA graphs, rivals in turn, the cache cleared.

A rival that waits for the GPU cannot be captured: events around eager calls time it, and the row
says so. Runs on a CPU, where all of this can only be tried out, are timed by the clock.
"""

import functools
import itertools
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsgen.measure import Run

GRAPH, EAGER, CLOCK = "CUDA graph", "eager calls", "clock"
ROUND_MS = 2.0  # of calls a round, at least: the clock of events ticks in half microseconds
MOST_CALLS = 128  # in a graph
FEWEST_ROUNDS, MOST_ROUNDS = 3, 20

Row = dict[str, Any]


class Ready(NamedTuple):
    """A rival that has run."""

    runs: list[Run]
    how: str
    calls: int  # a round
    expected_ms: float  # of a round


def in_turn(rivals: dict[str, Callable[[], list[Run]]], device: str, seconds: float) -> Row:
    """A row for each rival: percentiles and all times in ms, how it was timed, or why it was not.

    rivals:   by name, what makes its runs: the same work, each on inputs of its own
    seconds:  for all of them, about
    """
    why: dict[str, Row] = {}
    ready = tried(rivals, lambda make: warmed_up(make(), device), device, why)
    # memory that all graphs share: none runs beside another, or needs what another has left
    pool = torch.cuda.graph_pool_handle() if device == "cuda" else None
    rounds = tried(ready, lambda each: one_round(each, pool), device, why)
    tried(rounds, lambda once: once(), device, why)  # the first replay of a graph uploads it
    timed = [name for name in rounds if name not in why]
    expected = sum(ready[name].expected_ms for name in timed) / 1e3
    n_rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(seconds / max(expected, 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(n_rounds):
        for name in timed:
            times[name].append(rounds[name]())
    rows = {
        name: {"how": ready[name].how, "calls": ready[name].calls} | summary(times[name])
        for name in timed
    }
    return {name: (rows | why)[name] for name in rivals}


def tried(each: dict[str, Any], step: Callable[[Any], Any], device: str, why: Row) -> Row:
    """A step for each rival, and in `why` what went wrong with the others."""
    done: Row = {}
    for name, value in each.items():
        try:
            done[name] = step(value)
        except Exception as error:
            why[name] = {"why": reason(error, device)}
    return done


def summary(ms: list[float]) -> Row:
    """20th, 50th and 80th percentile, and all of it."""
    p20, p50, p80 = (float(q) for q in np.percentile(ms, [20, 50, 80]))
    return {"p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "all_ms": ms}


def reason(error: Exception, device: str) -> str:
    """What went wrong, short. Raises it again where the GPU is beyond use."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    if isinstance(error, torch.OutOfMemoryError):
        return "needs more memory than there is"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def warmed_up(runs: list[Run], device: str) -> Ready:
    """Compiled and run once: how it is to be timed, and about how long it takes."""
    if device != "cuda":
        by_the_clock(runs)
        return Ready(runs, CLOCK, len(runs), by_the_clock(runs) * len(runs))
    once = run_aside(runs)
    calls = min(MOST_CALLS, max(len(runs), math.ceil(ROUND_MS / once)))
    how = EAGER if synchronises(runs[0]) else GRAPH
    torch.cuda.empty_cache()  # what one stream has freed another does not get
    return Ready(runs, how, calls, once * calls)


def one_round(ready: Ready, pool: Any) -> Callable[[], float]:
    """What does a round and returns milliseconds a call."""
    runs, how, calls, _ = ready
    if how == CLOCK:
        return functools.partial(by_the_clock, runs)
    eager = functools.partial(repeat, runs, calls)
    body = eager if how == EAGER else captured(eager, pool).replay
    return functools.partial(by_events, body, calls)


def by_the_clock(runs: list[Run]) -> float:
    """Milliseconds a call of each in turn."""
    start = time.perf_counter()
    repeat(runs, len(runs))
    return 1e3 * (time.perf_counter() - start) / len(runs)


def repeat(runs: list[Run], calls: int) -> None:
    for run in itertools.islice(itertools.cycle(runs), calls):
        run()


@functools.cache
def side_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()


def run_aside(runs: list[Run]) -> float:
    """Milliseconds a call, roughly, on a stream of its own, as it has to be before a capture."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    with torch.cuda.stream(side_stream()):
        runs[0]()
        start.record()
        repeat(runs, max(2, len(runs)))
        end.record()
    torch.cuda.synchronize()
    return max(1e-3, start.elapsed_time(end) / max(2, len(runs)))


def synchronises(run: Run) -> bool:
    """Whether it waits for the GPU. To find out by a capture that fails would break the random
    numbers of all that comes after."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it does not yet see every way to wait
        torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError as error:
        if "synchroniz" in str(error):
            return True
        raise
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def captured(run: Run, pool: Any) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        run()
    return graph


@functools.cache
def beyond_cache() -> Tensor:
    """More memory than the cache holds."""
    n_bytes = 4 * torch.cuda.get_device_properties(0).L2_cache_size
    return torch.empty(n_bytes, dtype=torch.uint8, device="cuda")


def by_events(body: Run, calls: int) -> float:
    """Milliseconds a call. What clears the cache also gives the host time to begin."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    beyond_cache().zero_()
    start.record()
    body()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls
