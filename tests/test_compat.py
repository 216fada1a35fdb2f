"""A model of timevqvae 1.0.1 and what becomes of it here compute the same.

`data/timevqvae_1_0_1.npz` holds numbers that the package itself computed: timevqvae 1.0.1 on torch
2.13.0 (CPU, float32, one thread), everything drawn after torch.manual_seed(20). Sizes: length 64,
2 channels, 3 classes, n_fft 4, init_dim 4, hid_dim 16, 2 residual blocks, widths 8 and 32, 24 codes
of dim 8 a band; embedding 16; low prior hidden 16, 2 layers, 1 head; high prior hidden 16, 1 layer,
1 head; ff_mult 1, guidance 1.5, 10 steps a band, choice temperatures 10 and 0.

A training forward started the codebooks by k-means. Every vector parameter (biases, norms,
weight-norm gains, scales) then got normal noise of 0.2 added, so that none is at its start. 20
training forwards of the tokenizer and 3 of the MaskGIT on batches of 16 noisy sines of 1 to 6
periods moved all BatchNorm statistics and codebook averages. The codes were then set to 24 latents
of one more batch, so that many of them are in use.

"state.*" is the trained state dict under the package's names (less its aliases of the tokenizer);
"out.*" is what the package computed in eval mode from "out.x", 6 such series, and from the tokens
with half of them masked.
"""

from pathlib import Path

import numpy as np
import pytest
import timevqvae_standin
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import tsgen
from tsgen.compat import network_from_timevqvae
from tsgen.config import PRESETS
from tsgen.errors import ArgumentTypeError

GOLDEN = Path(__file__).parent / "data/timevqvae_1_0_1.npz"
ENDS = "lh"
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def out(arrays):
    """What the package computed; ids as int64."""
    named = {k.removeprefix("out."): v for k, v in arrays.items() if k.startswith("out.")}
    return {k: v if v.is_floating_point() else v.long() for k, v in named.items()}


@pytest.fixture(scope="module")
def standin(arrays):
    state = {k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")}
    return timevqvae_standin.maskgit(
        state,
        length=64,
        n_classes=3,
        steps=(10, 10),
        choice_temperature=(10.0, 0.0),
        guidance=1.5,
        heads=1,
        p_unconditional=0.2,
        dropout=0.3,
    )


@pytest.fixture(scope="module")
def network(standin):
    return network_from_timevqvae(standin)


class TestGolden:
    def test_is_small_and_not_trivial(self, out):
        assert GOLDEN.stat().st_size < 400_000
        assert min(len(out[f"ids_{end}"].unique()) for end in ENDS) >= 8
        assert min(out[f"logits_{end}"].std() for end in ENDS) > 0.1

    def test_latents_agree(self, network, out):
        inner = network.tokenizer.prepare(out["x"])
        for band, end in zip(network.tokenizer.each(), ENDS, strict=True):
            with torch.no_grad():
                z_BND = F.normalize(band.latents(inner, network.tokenizer.window_W), dim=-1)
            assert_close(
                z_BND.mT.reshape(out[f"latents_{end}"].shape), out[f"latents_{end}"], **CLOSE
            )

    def test_tokens_are_the_same(self, network, out):
        for ids_BN, end in zip(network.tokenizer.encode(out["x"]), ENDS, strict=True):
            assert torch.equal(ids_BN, out[f"ids_{end}"])

    @pytest.mark.parametrize("end", ENDS)
    @pytest.mark.parametrize("conditional", [True, False])
    def test_logits_agree(self, network, out, end, conditional):
        band = ENDS.index(end)
        class_B = out["classes"] if conditional else torch.full_like(out["classes"], 3)
        low = (out["ids_l"],) if band else ()
        with torch.no_grad():
            logits_BNK = network.priors[band](out[f"masked_{end}"], class_B, *low)
        assert_close(logits_BNK, out[f"logits_{end}" + ("" if conditional else "_none")], **CLOSE)

    def test_decoded_series_agree(self, network, out):
        series = network.tokenizer.decode([out["ids_l"], out["ids_h"]])
        assert_close(series, out["series_l"] + out["series_h"], **CLOSE)

    def test_reconstruction_and_losses_agree(self, network, out):
        with torch.no_grad():
            reconstruction = network.tokenizer(out["x"])
        assert_close(reconstruction.x_BCL, out["x_recon"], **CLOSE)
        for i, name in enumerate(("LF", "HF")):
            assert_close(
                reconstruction.parts[f"reconstruction_{i}"], out[f"loss.{name}.time"], **CLOSE
            )

    def test_sizes_and_settings_are_read_off(self, network):
        config, preset = network.config, PRESETS["timevqvae"]
        assert (config.tokenizer.n_channels, config.tokenizer.length) == (2, 64)
        assert (config.tokenizer.grid(0), config.tokenizer.grid(1)) == ((1, 8), (2, 32))
        assert config.tokenizer.n_codes == (24, 24)
        assert (config.tokenizer.init_dim, config.tokenizer.hidden_dim) == (4, 16)
        assert (config.tokenizer.n_resblocks, config.tokenizer.code_dim) == (2, 8)
        assert [(p.hidden_dim, p.n_layers, p.n_heads) for p in config.priors] == [
            (16, 2, 1),
            (16, 1, 1),
        ]
        assert [(p.embed_dim, p.head_dim, p.ff_dim) for p in config.priors] == [(16, 64, 10)] * 2
        assert (config.n_classes, config.p_unconditional) == (3, 0.2)
        assert (config.band_alignment, config.mask_polarity) == ("flat", "keep")
        assert config.band_alignment == preset.band_alignment
        assert config.sampling.steps == (10, 10)
        assert config.sampling.choice_temperature == (10.0, 0.0)
        assert config.sampling.guidance == 1.5

    def test_codebook_statistics_come_along(self, network, arrays):
        for band, end in zip(network.tokenizer.each(), ENDS, strict=True):
            theirs = f"state.vqvae.vq_model_{end}._codebook"
            assert torch.equal(band.codebook.codes_KD, arrays[f"{theirs}.embed"])
            assert torch.equal(band.codebook.sums_KD, arrays[f"{theirs}.embed_avg"])
            assert torch.equal(band.codebook.counts_K, arrays[f"{theirs}.cluster_size"])
            assert bool(band.codebook.started)

    def test_becomes_a_model_that_generates_and_is_saved(self, standin, tmp_path):
        model = tsgen.from_timevqvae(standin)
        x = model.generate(3, label=["0", "2", "1"], seed=5)
        assert x.shape == (3, 2, 64)
        assert np.isfinite(x).all()
        model.save(tmp_path / "model")
        np.testing.assert_array_equal(
            tsgen.load(tmp_path / "model").generate(3, seed=1), model.generate(3, seed=1)
        )

    def test_refuses_what_is_no_maskgit(self):
        with pytest.raises(ArgumentTypeError, match=r"maskgit: wanted .* got object"):
            tsgen.from_timevqvae(object())


def official(length: int, n_channels: int, guidance: float):
    """A random MaskGIT of the package itself, after a few training forwards."""
    maskgit = pytest.importorskip("timevqvae.maskgit", reason="timevqvae 1.0.1 is not installed")
    vqvae = pytest.importorskip("timevqvae.vqvae").VQVAE(
        in_channels=n_channels,
        input_length=length,
        hid_dim=32,
        codebook_size_l=32,
        codebook_size_h=48,
        kmeans_init=True,
    )
    for _ in range(2):
        vqvae.train()(torch.randn(8, n_channels, length))
    prior = {"ff_mult": 1, "use_rmsnorm": True, "p_unconditional": 0.2}
    out = maskgit.MaskGIT(
        vqvae=vqvae.eval(),
        lf_choice_temperature=7.0,
        hf_choice_temperature=1.0,
        lf_num_sampling_steps=6,
        hf_num_sampling_steps=4,
        lf_codebook_size=32,
        hf_codebook_size=48,
        transformer_embedding_dim=32,
        lf_prior_model_config=maskgit.PriorModelConfig(hidden_dim=48, n_layers=2, heads=2, **prior),
        hf_prior_model_config=maskgit.PriorModelConfig(hidden_dim=32, n_layers=1, heads=1, **prior),
        classifier_free_guidance_scale=guidance,
        n_classes=3,
    )
    for _ in range(2):
        out.train()(torch.randn(8, n_channels, length), torch.randint(0, 3, (8, 1)))
    return out.eval()


@pytest.mark.filterwarnings("ignore")  # the package's own
@pytest.mark.parametrize("length", [61, 128])
@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@torch.no_grad()
def test_agrees_with_the_package_itself(length, n_channels, guidance):
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(length + n_channels)
        theirs = official(length, n_channels, guidance)
        x = torch.randn(5, n_channels, length)
    mine = network_from_timevqvae(theirs)
    assert mine.config.sampling.steps == (6, 4)
    assert mine.config.sampling.choice_temperature == (7.0, 1.0)
    assert (mine.config.sampling.guidance, mine.config.n_classes) == (guidance, 3)
    vqvae, coders = theirs.vqvae, zip("lh", mine.tokenizer.encode(x), strict=True)
    for end, ids_BN in coders:
        encoder, codebook = getattr(vqvae, f"encoder_{end}"), getattr(vqvae, f"vq_model_{end}")
        assert torch.equal(theirs.encode_to_z_q(x, encoder, codebook)[1], ids_BN)
    low, high = mine.tokenizer.encode(x)
    series = theirs.decode_token_ind_to_timeseries(low, "lf")
    series = series + theirs.decode_token_ind_to_timeseries(high, "hf")
    assert_close(mine.tokenizer.decode([low, high]), series, atol=1e-4, rtol=1e-4)
    masked_low, masked_high, class_B = low.clone(), high.clone(), torch.tensor([0, 1, 2, 1, 0])
    masked_low[:, ::2], masked_high[:, 1::2] = 32, 48
    # masked_prediction is where the package applies its guidance
    for prior, transformer, masked, *before in (
        (mine.priors[0], theirs.transformer_l, masked_low),
        (mine.priors[1], theirs.transformer_h, masked_high, low),
    ):
        wanted = theirs.masked_prediction(transformer, class_B[:, None], *before, masked)
        none = prior(masked, torch.full_like(class_B, 3), *before)
        got = none + guidance * (prior(masked, class_B, *before) - none)
        assert_close(got, wanted, atol=1e-4, rtol=1e-4)
