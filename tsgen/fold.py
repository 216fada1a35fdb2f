"""A network's weights as the native engine takes them, folded in float64.

Everything that is a function of a code, a place or a class becomes a table, and linear maps that
follow each other become one: a convolution of embeddings is a sum over tables of the codes, the
context's second convolution and the input projection are one, and so are the decoder's last maps,
the inverse transform and the resampling after it.
"""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tsgen import ops
from tsgen.config import TokenizerConfig
from tsgen.layers import Block, ResBlock, Snake, UpBlock, UpConv, folded
from tsgen.ops.snake import SMALLEST_A
from tsgen.ops.stft import fourier_rows
from tsgen.prior import Context, Prior, stretched
from tsgen.tokenizer import Band

Ints = NDArray[np.int64]


def flattened(arrays: list[Tensor]) -> Tensor:
    """All in a row, in float32."""
    return torch.cat([t.flatten() for t in arrays]).to(torch.float32)


def norm(module: nn.Module) -> list[Tensor]:
    """Gain and shift of a layer norm."""
    return [cast(nn.LayerNorm, module).weight, cast(nn.LayerNorm, module).bias]


def prior_arrays(prior: Prior) -> tuple[dict[str, int], list[Tensor], Ints, Ints]:
    """Sizes, arrays in the order of csrc/cpu/engine/prior.h, and where the context goes."""
    blocks = [cast(Block, block) for block in prior.blocks]
    attention = blocks[0].attention
    tables = prior.fold()
    H, Dh = attention.n_heads, len(attention.q_scale)
    sizes = {
        "N": prior.n_tokens,
        "D": prior.head_in.in_features,
        "H": H,
        "Dh": Dh,
        "F": blocks[0].feed_forward.up.out_features,
        "K": prior.n_codes,
        "n_layers": len(blocks),
        "n_classes": prior.n_classes,
    }
    arrays = [tables.tokens_KD, tables.places_ND, tables.classes_CD]
    for block in blocks:
        arrays += block_arrays(block)
    arrays += [prior.head_in.weight, prior.head_in.bias, *norm(prior.head_norm)]
    arrays += [tables.head_KD, prior.head_bias]
    names = "n_low", "K_low", "E2", "n_columns", "taps_in", "taps_out", "dilation", "n_maps"
    none = np.empty(0, dtype=np.int64)
    if prior.context is None:
        return sizes | dict.fromkeys(names, 0), arrays, none, none
    width = prior.embed.free.shape[1]
    weight_DE = prior.project_in.weight[:, :-width]
    more, context, columns, places = context_arrays(prior.context, weight_DE, prior.n_tokens)
    return sizes | dict(zip(names, more, strict=True)), arrays + context, columns, places


def block_arrays(block: Block) -> list[Tensor]:
    """One transformer layer."""
    attention, feed_forward = block.attention, block.feed_forward
    return [
        *norm(attention.norm_in),
        attention.qkv.weight,
        *attention.null_kv,
        attention.q_scale * attention.k_scale,
        attention.out.weight,
        *norm(attention.norm_out),
        *norm(feed_forward.norm_in),
        feed_forward.up.weight,
        *norm(feed_forward.norm_mid),
        feed_forward.down.weight,
    ]


def context_arrays(
    context: Context, weight_DE: Tensor, n_tokens: int
) -> tuple[tuple[int, ...], list[Tensor], Ints, Ints]:
    """The context: its first convolution as tables of the codes, its second one and W as one."""
    embed_KE, (rows, width), M = context.embed(), context.grid, context.n_low
    conv_in, conv_out, finer = context.conv_in, context.conv_out, context.finer
    tables = torch.einsum("ke,fet->tkf", embed_KE, conv_in.weight)
    # one linear map for each row and each place between two low tokens
    weight, bias = context.projected(weight_DE)
    taps, bias = weight.permute(4, 0, 2, 1, 3), bias.permute(0, 2, 1)
    if context.aligned:
        columns = np.arange(M)
        place = stretched(M * finer, width).numpy()
        maps_of_row = [place % finer + row * finer for row in range(rows)]
        source = np.stack([np.tile(place // finer, rows), np.concatenate(maps_of_row)], -1)
    else:
        columns = stretched(M, n_tokens).numpy()
        source = np.stack([np.arange(n_tokens), np.zeros(n_tokens, np.int64)], -1)
    n_maps = bias.shape[0] * bias.shape[1]
    sizes = (
        *(M, len(embed_KE), tables.shape[2], len(columns)),
        *(conv_in.kernel_size[0], conv_out.kernel_size[0], conv_out.dilation[0], n_maps),
    )
    arrays = [tables, cast(Tensor, conv_in.bias), *folded(context.norm), taps, bias]
    return sizes, arrays, np.ascontiguousarray(columns), np.ascontiguousarray(source)


def decoder_arrays(
    band: Band, window_W: Tensor
) -> tuple[dict[str, int], list[int], list[Tensor], Ints]:
    """Sizes, widths, arrays in the order of csrc/cpu/engine/decoder.h, and a frame a sample."""
    config, (rows, columns) = band.config, band.grid
    first, *middle, last, dense = band.decoder.layers
    codes_KD = band.codebook.project_out(band.codebook.codes())
    assert isinstance(first, ResBlock)
    assert isinstance(last, UpConv)
    assert isinstance(dense, UpConv)
    arrays = first_block(first, codes_KD)
    widths = [first.pointwise_in.out_channels]
    for layer in middle:
        if isinstance(layer, ResBlock):
            arrays += [*snake(layer.snake_in), *conv(layer.depthwise_in, layer.pointwise_in)]
            arrays += second_half(layer)
        else:
            assert isinstance(layer, UpBlock)
            arrays += [*conv(layer.conv.spread, layer.conv.pointwise), *snake(layer.snake)]
            widths.append(layer.conv.pointwise.out_channels)
    arrays += conv(last.spread, last.pointwise)
    # the last two maps have nothing between them
    point = dense.pointwise.weight[:, :, 0, 0]
    arrays += [torch.einsum("po,coij->ijpc", point, dense.spread.weight)]
    bias, point_bias = cast(Tensor, dense.spread.bias), cast(Tensor, dense.pointwise.bias)
    arrays += [point @ bias + point_bias]
    n_frames = columns << (len(widths) + 1)
    taps, frames = sample_taps(config, band.rows, n_frames, window_W.numpy())
    sizes = {
        "rows": rows,
        "columns": columns,
        "K": len(codes_KD),
        "G": 2 * config.n_channels,
        "L": config.length,
        "n_resblocks": config.n_resblocks,
        "n_taps": taps.shape[1],
    }
    return sizes, widths, [*arrays, torch.from_numpy(taps)], frames


def snake(module: Snake) -> list[Tensor]:
    """Frequency, and gain and shift of the normalisation where there is one."""
    a_C = torch.where(module.a_C == 0, SMALLEST_A, module.a_C)
    return [a_C] if module.norm is None else [a_C, *folded(module.norm)]


def conv(depthwise: nn.Module, pointwise: nn.Conv2d) -> list[Tensor]:
    """A convolution of each channel by itself, taps first, and the product after it."""
    weight, bias = cast(Tensor, depthwise.weight), cast(Tensor, depthwise.bias)
    taps = weight[:, 0].permute(1, 2, 0)
    return [taps, bias, pointwise.weight[:, :, 0, 0], cast(Tensor, pointwise.bias)]


def second_half(block: ResBlock) -> list[Tensor]:
    return [*snake(block.snake_out), *conv(block.depthwise_out, block.pointwise_out)]


def first_block(block: ResBlock, codes_KD: Tensor) -> list[Tensor]:
    """Its first convolutions and its skip as tables of the codes."""
    image = codes_KD[:, :, None, None]
    taps, bias, point, point_bias = conv(block.depthwise_in, block.pointwise_in)
    activated = ops.snake(codes_KD, block.snake_in.a_C)
    tables = torch.einsum("kc,ijc,oc->ijko", activated, taps, point)
    skip = block.skip(image)[:, :, 0, 0]
    return [tables, point @ bias + point_bias, skip, *second_half(block)]


def sample_taps(
    config: TokenizerConfig, rows: tuple[int, int], n_frames: int, window_W: NDArray[np.float64]
) -> tuple[NDArray[np.float64], Ints]:
    """Every sample as a sum over frames: the inverse transform, and the resampling after it.

    returns:  (length, taps, rows, 2) weights of real and imaginary parts, (length,) first frames
    """
    W, hop, half = config.n_fft, config.hop, config.n_fft // 2
    n_fine = (n_frames - 1) * hop
    # one frame: what its rows add to each of the window's samples
    f = np.arange(*rows)
    twice = np.where((f == 0) | (2 * f == W), 1, 2) / W
    fourier = fourier_rows(W, *rows, torch.float64, torch.device("cpu")).numpy()
    basis_2FW = fourier.reshape(2, len(f), W) * twice[:, None] * window_W
    weight = np.zeros(n_fine + W)
    for n in range(W):
        ends = np.arange(n_frames) * hop + n
        np.add.at(weight, ends[ends < len(weight)], window_W[n] ** 2)
    weight = weight[half : half + n_fine]
    inverse = np.where(weight > 1e-11, 1 / np.where(weight > 1e-11, weight, 1), 0)
    # where a sample lies between two of the fine series, as F.interpolate has it
    at = ((np.arange(config.length) + 0.5) * (n_fine / config.length) - 0.5).clip(0)
    left = np.minimum(np.floor(at).astype(np.int64), n_fine - 1)
    right, share = np.minimum(left + 1, n_fine - 1), at - left
    frames = -((W - 1 - left - half) // hop)
    n_taps = int(((right + half) // hop - frames).max()) + 1
    out = np.zeros((config.length, n_taps, len(f), 2))
    for place, part in ((left, 1 - share), (right, share)):
        for tap in range(n_taps):
            n = place + half - (frames + tap) * hop
            inside = (n >= 0) & (n < W)
            values = basis_2FW[:, :, n.clip(0, W - 1)] * (part * inverse[place] * inside)
            out[:, tap] += values.transpose(2, 1, 0)
    return out, frames
