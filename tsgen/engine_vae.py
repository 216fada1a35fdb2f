"""Draws of a vae in plain PyTorch: z from the prior, by numbers that are counted, then the decoder.

    z = m_y + temperature · ε,    ε by Box & Muller 1958 of Philox words

Number d of sample i is half of the pair at position ⌊d / 2⌋ of stream 0; where no class is asked
for, the class is drawn by stream 1 in the proportions of the training set. What stands for tokens
is z.
"""

import torch
from torch import Tensor

from tsgen import ops
from tsgen.config import SamplingConfig
from tsgen.network import Network
from tsgen.request import CHUNK, Request
from tsgen.spans import span


class VaeEngine:
    """The only engine of a vae."""

    needs_blocks = True  # PyTorch's products may sum in another order for another batch size
    at_once = CHUNK

    def __init__(self, network: Network) -> None:
        self.vae = network.vae

    @staticmethod
    def obstacle(network: Network) -> str | None:
        """Why it cannot run this network here, or None if it can."""
        return "draws no tokens" if network.config.family == "vq" else None

    @torch.no_grad()
    def tokens(self, request: Request, settings: SamplingConfig) -> list[Tensor]:
        """z of every sample, (B, latent_dim), alone in a list."""
        vae, seed = self.vae, request.seed
        index_B = torch.from_numpy(request.index_B).to(vae.window_W.device)
        class_B = torch.from_numpy(request.class_B).to(vae.window_W.device)
        D = vae.latent_dim
        noise_BD = ops.normals(ops.philox(seed, index_B, -(-D // 2)))[:, :D]
        u_B = ops.uniforms(ops.philox(seed, index_B, 1, stream=1))[0][:, 0]
        mean_BD = vae.prior_means(vae.drawn_classes(class_B, u_B))
        return [mean_BD + settings.temperature * noise_BD.to(mean_BD.dtype)]

    def draw(self, request: Request, settings: SamplingConfig) -> tuple[list[Tensor], Tensor]:
        """z, and series (B, C, length), scaled as in training."""
        z = self.tokens(request, settings)
        return z, self.series(z)

    @torch.no_grad()
    def series(self, ids: list[Tensor]) -> Tensor:
        """(B, C, length), scaled as in training, of z."""
        with span("decoder"):
            return self.vae.decode(ids[0])
