"""Engine cuda by kernels of whole layers and whole bands; without a GPU they run on the CPU."""

import numpy as np
import pytest
import torch
from test_engine_cuda import DEVICE, drawn
from test_ops import device_for
from test_sampler import request
from tiny_models import tiny_network

from tsgen import dispatch
from tsgen.config import SamplingConfig
from tsgen.engine_cuda import CudaEngine
from tsgen.errors import ArgumentError, RunError


class TestLargerKernels:
    """CUDA kernels of whole layers and whole bands, held to a kernel for each part."""

    N = 40

    @pytest.fixture
    def network(self):
        prior = {"hidden_dim": 16, "head_dim": 16}
        return tiny_network(length=32, n_codes=(12, 20), prior=prior).to(DEVICE)

    def drawn(self, network, kernels, rows=slice(None), dtype="bfloat16", **settings):
        device_for("transformer_block", "cuda", torch.bfloat16)
        asked = request([i % 4 for i in range(self.N)]).at(np.arange(self.N)[rows])
        how = {"steps": (4, 3), "choice_temperature": (4.0, 1.0)} | settings
        engine = CudaEngine(network, kernels)
        return drawn(engine, asked, SamplingConfig(dtype=dtype, **how))

    @pytest.mark.parametrize(
        ("kernels", "settings"),
        [
            ("layers", {}),
            ("layers", {"dtype": "float16"}),
            ("bands", {}),
            ("bands", {"dtype": "float16", "guidance": 1.5}),
            ("bands", {"temperature": 0.7, "schedule": "linear"}),
        ],
        ids=str,
    )
    def test_same_law(self, network, kernels, settings):
        ids, others = (self.drawn(network, k, **settings) for k in ("parts", kernels))
        # rounding moves some choices over an edge, and what is drawn after them follows
        same = torch.cat([a == b for a, b in zip(ids, others, strict=True)], 1).double().mean()
        assert same > 0.8

    @pytest.mark.parametrize(
        ("sizes", "settings"),
        [
            ({"prior": {"hidden_dim": 144, "head_dim": 16, "n_layers": 1}}, {}),
            ({"n_codes": (12, 1100)}, {"guidance": 1.5}),
            ({"tokenizer": {"token_width": (4, 60)}}, {}),
            ({"prior": {"hidden_dim": 128, "head_dim": 64, "n_layers": 1, "ff_mult": 1}}, {}),
        ],
        ids=["wide", "many codes", "many tokens", "full"],
    )
    def test_same_law_of_other_sizes(self, sizes, settings):
        prior = {"hidden_dim": 16, "head_dim": 16} | sizes.get("prior", {})
        sizes = {"length": 64, "n_codes": (12, 20)} | sizes | {"prior": prior}
        network = tiny_network(**sizes).to(DEVICE)
        how = {"steps": (2, 2), "dtype": "float16"} | settings
        rows = slice(0, 7)
        ids, others = (self.drawn(network, k, rows, **how) for k in ("parts", "bands"))
        same = torch.cat([a == b for a, b in zip(ids, others, strict=True)], 1).double().mean()
        assert same > 0.85
        alone = self.drawn(network, "bands", slice(6, 7), **how)
        assert torch.equal(alone[0], others[0][6:])

    def test_a_sample_alone_is_the_same(self, network):
        whole = self.drawn(network, "bands")[0]  # the low band, which has no context
        for rows in (slice(0, 1), slice(39, 40), slice(13, 30)):
            assert torch.equal(self.drawn(network, "bands", rows)[0], whole[rows])

    def test_damaged_weights_are_an_error(self, network):
        with torch.no_grad():
            network.priors[0].blocks[0].feed_forward.down.weight.fill_(torch.nan)
        for kernels in ("layers", "bands"):
            with pytest.raises(RunError, match="model: wanted finite"):
                self.drawn(network, kernels, slice(0, 2))

    def test_auto_takes_them_where_they_were_faster(self, network, monkeypatch):
        def tokens(kernels: str, **settings: int) -> torch.Tensor:
            return torch.cat(self.drawn(network, kernels, slice(0, 16), **settings), 1)

        found = {kernels: tokens(kernels) for kernels in ("parts", "layers", "bands")}
        assert torch.equal(tokens("auto"), found["parts"])
        for name, kernels in (("transformer_block", "layers"), ("decode", "bands")):
            monkeypatch.setitem(dispatch.CUDA_IS_FASTER, name, ("bfloat16",))
            assert torch.equal(tokens("auto"), found[kernels])
        assert not torch.equal(found["bands"], found["layers"])
        # what a kernel cannot do goes by smaller ones
        assert torch.equal(tokens("auto", top_k=3), tokens("layers", top_k=3))

    def test_asked_for_by_name_they_run_or_say_why_not(self, network):
        with pytest.raises(ArgumentError, match="'bands', which knows no top_k"):
            self.drawn(network, "bands", top_k=3)
        with pytest.raises(ArgumentError, match="'bands', which takes 16 layers and 64 steps"):
            self.drawn(network, "bands", steps=(65, 5))
        narrow = tiny_network(length=32, n_codes=(12, 20)).to(DEVICE)
        for kernels in ("layers", "bands"):
            with pytest.raises(ArgumentError, match="a width of 8 and heads of 4"):
                self.drawn(narrow, kernels)
        with pytest.raises(ArgumentError, match=r"takes torch\.bfloat16 or torch\.float16"):
            self.drawn(network, "layers", dtype="float32")
        with pytest.raises(ArgumentError, match="kernels: wanted one of 'auto', 'parts'"):
            self.drawn(network, "all")
