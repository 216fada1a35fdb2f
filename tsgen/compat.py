"""Models trained with timevqvae 1.0.1, taken over weight by weight.

Its weight-normed layers become plain ones (g v / |v|); every other tensor is copied. The layers of
a `Network` with preset "timevqvae" are in the order of that package's modules.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from tsgen.autoencoder import Band
from tsgen.config import PRESETS, ModelConfig, PriorConfig, SamplingConfig
from tsgen.config_tokenizer import TokenizerConfig, halvings
from tsgen.data import Labels, Scaler
from tsgen.errors import bad_type
from tsgen.layers import DownBlock, ResBlock, Snake, UpBlock, UpConv
from tsgen.model import Model
from tsgen.network import Network
from tsgen.prior import Prior
from tsgen.quantisers import Quantiser
from tsgen.quantisers.codebook import Codebook
from tsgen.transformer import Attention, Block


def network_from_timevqvae(maskgit: Any) -> Network:
    """A Network with the weights of a `timevqvae.maskgit.MaskGIT`; its logits agree to 1e-4.

    maskgit:  the trained MaskGIT, on any device
    returns:  Network in eval mode, on the CPU
    raises:   ArgumentTypeError for anything else
    """
    for name in ("vqvae", "transformer_l", "transformer_h", "masking_logic", "sampling_logic"):
        if not hasattr(maskgit, name):
            raise bad_type("maskgit", "a timevqvae.maskgit.MaskGIT", maskgit)
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, and all overwritten
        network = Network(config_of(maskgit))
    vqvae = maskgit.vqvae
    with torch.no_grad():
        for band, end in zip(network.tokenizer.each(), "lh", strict=True):
            copy_band(band, *(getattr(vqvae, f"{part}_{end}") for part in PARTS))
        for prior, end in zip(network.each_prior(), "lh", strict=True):
            copy_prior(prior, getattr(maskgit, f"transformer_{end}"), f"tok_emb_{end}")
    return network.eval()


PARTS = ("encoder", "vq_model", "decoder")


def config_of(maskgit: Any) -> ModelConfig:
    """The sizes, read off the modules."""
    vqvae, preset = maskgit.vqvae, PRESETS["timevqvae"]
    encoder = vqvae.encoder_l.encoder
    decoders = (vqvae.decoder_l, vqvae.decoder_h)
    codebooks = [vq._codebook.embed for vq in (vqvae.vq_model_l, vqvae.vq_model_h)]
    transformers = (maskgit.transformer_l, maskgit.transformer_h)
    tokenizer = TokenizerConfig(
        n_channels=decoders[0].x_channels,
        length=vqvae.input_length,
        n_fft=vqvae.n_fft,
        init_dim=encoder[0].block[1].out_channels,
        max_dim=preset.tokenizer["max_dim"],
        hidden_dim=encoder[-1].convs[6].out_channels,
        n_resblocks=count_resblocks(encoder),
        n_codes=(len(codebooks[0]), len(codebooks[1])),
        code_dim=codebooks[0].shape[1],
        token_width=widths(vqvae),
    )
    logic = maskgit.sampling_logic
    temperatures = maskgit.masking_logic.choice_temperatures
    return ModelConfig(
        tokenizer=tokenizer,
        priors=tuple(prior_config(t) for t in transformers),
        n_classes=maskgit.n_classes,
        p_unconditional=transformers[0].p_unconditional,
        band_alignment=preset.band_alignment,
        mask_polarity=preset.mask_polarity,
        sampling=SamplingConfig(
            steps=(logic.num_sampling_steps["lf"], logic.num_sampling_steps["hf"]),
            choice_temperature=(temperatures["lf"], temperatures["hf"]),
            guidance=maskgit.cfg_scale,
        ),
    )


def count_resblocks(encoder: nn.Sequential) -> int:
    """Residual blocks a stage; the last layer of the encoder is one that no stage owns."""
    blocks = sum(hasattr(layer, "convs") for layer in encoder) - 1
    stages = sum(hasattr(layer, "block") for layer in encoder) - 1
    return blocks // stages if stages else PRESETS["timevqvae"].tokenizer.get("n_resblocks", 2)


def widths(vqvae: Any) -> tuple[int, ...]:
    """A target width for each band that gives the same number of halvings."""
    length, hop = vqvae.input_length, max(1, vqvae.n_fft // 4)
    out = []
    for encoder in (vqvae.encoder_l.encoder, vqvae.encoder_h.encoder):
        n = sum(hasattr(layer, "block") for layer in encoder)
        fits = (w for w in range(length + 1, 0, -1) if halvings(length, hop, w) == n)
        out.append(next(fits, length + 1))
    return tuple(out)


def prior_config(transformer: Any) -> PriorConfig:
    """The sizes of one of its transformers."""
    attention, feed_forward = transformer.blocks.layers[0]
    hidden = transformer.proj_in.out_features
    return PriorConfig(
        embed_dim=transformer.tok_emb_l.embedding_dim,
        hidden_dim=hidden,
        n_layers=len(transformer.blocks.layers),
        n_heads=attention.heads,
        head_dim=len(attention.q_scale),
        # the middle of the range that int(hidden * mult * 2 / 3) takes to this width
        ff_mult=(feed_forward[1].out_features + 0.5) * 1.5 / hidden,
        dropout=transformer.emb_dropout,
        tables="free",
        sharpness=len(attention.q_scale) ** -0.5,
    )


def plain_weight(layer: nn.Module) -> Tensor:
    """The weight that a weight-normed layer uses; Salimans & Kingma 2016, eq. 2."""
    if not hasattr(layer, "weight_g"):
        return cast(Tensor, layer.weight)
    v, g = cast(Tensor, layer.weight_v), cast(Tensor, layer.weight_g)
    return torch._weight_norm(v, g, 0)


def copy(target: nn.Module, source: nn.Module) -> None:
    """Weight and bias of a linear, convolution, norm or embedding."""
    weight = plain_weight(source)
    mine = cast(Tensor, target.weight)
    if isinstance(source, nn.ConvTranspose2d) and isinstance(target, nn.Conv2d):
        weight = weight.transpose(0, 1)  # a 1 x 1 kernel: the same map, stored the other way
    mine.copy_(weight[: len(mine)])  # its position tables have a row that is never used
    if getattr(target, "bias", None) is not None:
        cast(Tensor, target.bias).copy_(cast(Tensor, source.bias))


def copy_norm(target: nn.Module | None, source: nn.Module) -> None:
    """A BatchNorm with its statistics."""
    assert target is not None
    target.load_state_dict(source.state_dict())


def copy_snake(target: Snake, source: Any) -> None:
    target.a_C.copy_(source.a.flatten())


def copy_band(band: Band[Quantiser], encoder: Any, quantiser: Any, decoder: Any) -> None:
    """Encoder, codebook and decoder."""
    for mine, theirs in zip(band.encoder.layers, encoder.encoder, strict=True):
        copy_layer(mine, theirs)
    for mine, theirs in zip(band.decoder.layers, decoder.decoder, strict=True):
        copy_layer(mine, theirs)
    codebook, theirs = cast(Codebook, band.codebook), quantiser._codebook
    copy(codebook.project_in, quantiser.project_in)
    copy(codebook.project_out, quantiser.project_out)
    codebook.codes_KD.copy_(theirs.embed)
    codebook.counts_K.copy_(theirs.cluster_size)
    codebook.sums_KD.copy_(theirs.embed_avg)
    codebook.started.fill_(bool(theirs.initted))


def copy_layer(mine: nn.Module, theirs: Any) -> None:
    """One layer of an encoder or decoder."""
    if isinstance(mine, ResBlock):
        snake_in, dw_in, pw_in, norm, snake_out, dw_out, pw_out, _ = theirs.convs
        copy_snake(mine.snake_in, snake_in)
        copy_snake(mine.snake_out, snake_out)
        copy_norm(mine.snake_out.norm, norm)
        pairs: list[tuple[nn.Module, Any]] = [
            (mine.depthwise_in, dw_in),
            (mine.pointwise_in, pw_in),
        ]
        pairs += [(mine.depthwise_out, dw_out), (mine.pointwise_out, pw_out)]
        if not isinstance(mine.skip, nn.Identity):
            pairs.append((mine.skip, theirs.proj))
    elif isinstance(mine, DownBlock):
        depthwise, pointwise, norm, snake, _ = theirs.block
        copy_norm(mine.snake.norm, norm)
        copy_snake(mine.snake, snake)
        pairs = [(mine.depthwise, depthwise), (mine.pointwise, pointwise)]
    elif isinstance(mine, UpBlock):
        spread, pointwise, norm, snake, _ = theirs.block
        copy_norm(mine.snake.norm, norm)
        copy_snake(mine.snake, snake)
        pairs = [(mine.conv.spread, spread), (mine.conv.pointwise, pointwise)]
    else:
        assert isinstance(mine, UpConv)
        pairs = [(mine.spread, theirs[0]), (mine.pointwise, theirs[1])]
    for target, source in pairs:
        copy(target, source)


def copy_prior(prior: Prior, theirs: Any, own_tokens: str) -> None:
    """One transformer."""
    prior.embed.free.copy_(getattr(theirs, own_tokens).weight)
    copy(prior.places, theirs.pos_emb)
    copy(prior.classes, theirs.class_condition_emb)
    copy(prior.project_in, theirs.proj_in)
    for mine, layer in zip(prior.blocks, theirs.blocks.layers, strict=True):
        copy_block(cast(Block, mine), *layer)
    copy(prior.head_in, theirs.pred_head[0])
    copy(prior.head_norm, theirs.pred_head[2])
    prior.head.free.copy_(plain_weight(theirs.pred_head[3]))
    prior.head_bias.copy_(theirs.pred_head[3].bias)
    if prior.context is not None:
        conv_in, _, norm, conv_out = theirs.projector.conv
        prior.context.embed.free.copy_(theirs.tok_emb_l.weight[:-1])  # its [MASK] never comes
        copy(prior.context.conv_in, conv_in)
        copy_norm(prior.context.norm, norm)
        copy(prior.context.conv_out, conv_out)


def copy_block(mine: Block, attention: Any, feed_forward: Any) -> None:
    """One transformer layer."""
    target: Attention = mine.attention
    copy(target.norm_in, attention.norm)
    target.qkv.weight.copy_(
        torch.cat([plain_weight(attention.to_q), plain_weight(attention.to_kv)])
    )
    target.null_kv.copy_(attention.null_kv.squeeze(2))
    target.q_scale.copy_(attention.q_scale)
    target.k_scale.copy_(attention.k_scale)
    copy(target.out, attention.to_out)
    copy(target.norm_out, attention.norm_out)
    norm_in, up, _, norm_mid, down = feed_forward
    copy(mine.feed_forward.norm_in, norm_in)
    copy(mine.feed_forward.up, up)
    copy(mine.feed_forward.norm_mid, norm_mid)
    copy(mine.feed_forward.down, down)


def from_timevqvae(
    maskgit: Any, scaler: Scaler | None = None, labels: Labels | None = None
) -> Model:
    """A Model with the weights of a trained `timevqvae.maskgit.MaskGIT` (1.0.1).

    maskgit:  the trained MaskGIT
    scaler:   how its training data were scaled; None: not at all
    labels:   names of its classes; None: "0", "1", ...
    raises:   ArgumentTypeError for anything else
    """
    network = network_from_timevqvae(maskgit)
    C, n_classes = network.config.tokenizer.n_channels, network.config.n_classes
    if labels is None and n_classes:
        labels = Labels(tuple(str(i) for i in range(n_classes)))
    return Model(network, scaler or Scaler((0.0,) * C, (1.0,) * C), labels)
