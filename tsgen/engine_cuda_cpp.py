"""Iterative decoding on a GPU in one native call: the CPU engine's calls, by CUDA C++ kernels.

In float32, by csrc/cuda/engine, which libtsgen has too: it draws the same bits. Needs no Triton.
Tensors come and go by way of the host.
"""

import torch
from torch import Tensor

from tsgen import native
from tsgen.engine_cpu import CpuEngine, folded, no_token_a_place
from tsgen.network import Network
from tsgen.spans import span


class CudaCppEngine(CpuEngine):
    """The native decoding loop on a GPU."""

    @staticmethod
    def obstacle(network: Network) -> str | None:
        """Why it cannot run this network here, or None if it can."""
        if why := no_token_a_place(network):
            return why
        like = network.like
        if like.device.type != "cuda" or like.dtype != torch.float32:
            return f"takes float32 weights on a GPU, not {like.dtype} on {like.device}"
        try:
            kernels = native.kernels("cuda")
        except ImportError as error:
            return f"does not load: {error}"
        if kernels.on_cpu:
            return "was built for CPUs, to be tested"
        return kernels.obstacle(like.device.index) or None

    def __init__(self, network: Network) -> None:
        """Fold the weights and take them to the GPU once more.

        raises:  ImportError where tsgen._C has no CUDA kernels, RuntimeError where no GPU runs them
        """
        self.config = network.config
        device = network.tokenizer.window_W.device.index or 0
        state, threads = network.state_dict(), torch.get_num_threads()
        self.core = folded(network.config.to_dict(), state, threads, "cuda", device)

    @property
    def at_once(self) -> int:
        """As many as its memory holds, at most 2,048."""
        return int(self.core.at_once)

    def encode(self, x_BCL: Tensor) -> list[Tensor]:
        """Token ids of every band, (B, N) each, of series scaled as in training.

        x_BCL:  (B, C, length) float32
        """
        config = self.config.tokenizer
        beyond = config.inner_length - x_BCL.shape[2]
        held = x_BCL[:, :, -1:].expand(-1, -1, beyond)  # a short series is held at its end
        x = torch.cat([x_BCL, held], 2).to("cpu", torch.float32).contiguous()
        ids = [
            torch.empty(len(x), config.n_tokens(band), dtype=torch.int64, device="cpu")
            for band in range(config.bands)
        ]
        with span("encoder"):
            threads = torch.get_num_threads()
            self.core.encode(x.data_ptr(), len(x), [t.data_ptr() for t in ids], threads)
        return ids
