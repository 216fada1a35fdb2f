"""A function of tensors that stay where they are: captured in a CUDA graph once, then replayed.

On another device it simply runs, so that all but the capture can be tested anywhere.
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

CAPTURE = threading.Lock()  # of the process: PyTorch captures one graph at a time


class Replay:
    """One graph with its own memory. Calls from several threads and streams take turns."""

    def __init__(self, function: Callable[[list[Tensor]], list[Tensor]], inputs: list[Tensor]):
        """Capture.

        function:  launches work on the current stream and waits for none of it
        inputs:    valid values; later ones are copied over them
        """
        self.function, self.inputs = function, inputs
        self.turn = threading.Lock()
        self.graph: torch.cuda.CUDAGraph | None = None
        if inputs[0].is_cuda:
            with CAPTURE:
                self.capture()
        else:
            outputs = function(inputs)
            self.n_bytes = sum(t.nbytes for t in [*inputs, *outputs])

    def capture(self) -> None:
        device = self.inputs[0].device
        stream, current = side_stream(device), torch.cuda.current_stream(device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self.function(self.inputs)  # compiles kernels and loads libraries, which no graph can
        current.wait_stream(stream)
        torch.cuda.empty_cache()  # of what that took: the graph takes as much
        before = torch.cuda.memory_reserved(device)
        self.graph = torch.cuda.CUDAGraph()
        # other threads go on meanwhile, as long as they do not wait for the whole device; the outer
        # `with` leaves the stream also where ending the capture fails
        capture = torch.cuda.graph(self.graph, None, stream, capture_error_mode="thread_local")
        with torch.cuda.stream(stream), capture:
            self.outputs = self.function(self.inputs)
        current.wait_stream(stream)
        self.n_bytes = torch.cuda.memory_reserved(device) - before
        self.done = torch.cuda.Event()
        self.done.record(current)

    def __call__(self, values: list[Tensor]) -> list[Tensor]:
        """What comes out for other rows, as many as these are; those behind them stay."""
        n = len(values[0])
        with self.turn:
            if self.graph is None:
                self.fill(values)
                return [t[:n].clone() for t in self.function(self.inputs)]
            stream = torch.cuda.current_stream(self.inputs[0].device)
            stream.wait_event(self.done)  # another stream's turn
            self.fill(values)
            self.graph.replay()
            outputs = [t[:n].clone() for t in self.outputs]
            self.done.record(stream)
            return outputs

    def fill(self, values: list[Tensor]) -> None:
        for to, value in zip(self.inputs, values, strict=True):
            to[: len(value)].copy_(value, non_blocking=True)


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Where graphs are captured: of high priority, for others hardly ever get one of those."""
    return torch.cuda.Stream(device, priority=-1)


class Replays:
    """Those used last, in bounded memory."""

    def __init__(self, most_bytes: Callable[[], int]) -> None:
        self.most_bytes = most_bytes
        self.made: OrderedDict[Hashable, Replay] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Replay]) -> Replay:
        """The one of this key, made where there is none."""
        with self.lock:
            if key not in self.made:
                self.made[key] = make()
            self.made.move_to_end(key)
            while len(self.made) > 1 and self.n_bytes() > self.most_bytes():
                self.made.popitem(last=False)
            return self.made[key]

    def n_bytes(self) -> int:
        """What all of them hold."""
        return sum(replay.n_bytes for replay in self.made.values())

    def clear(self) -> None:
        """Give all memory back."""
        with self.lock:
            self.made.clear()
