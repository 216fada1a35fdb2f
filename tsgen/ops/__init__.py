"""Every op, one file each: public function, reference, baseline, shapes, error."""

from tsgen.ops.attention import attention
from tsgen.ops.draw_uniforms import draw_uniforms
from tsgen.ops.dropout import dropout
from tsgen.ops.embed_tokens import embed_tokens
from tsgen.ops.feed_forward import feed_forward
from tsgen.ops.istft import istft
from tsgen.ops.keep_confident import keep_confident
from tsgen.ops.linear_norm import linear_norm
from tsgen.ops.masked_cross_entropy import masked_cross_entropy
from tsgen.ops.nearest_code import Nearest, nearest_code
from tsgen.ops.norm_linear import norm_linear
from tsgen.ops.philox import normals, philox, uniforms
from tsgen.ops.remask_tokens import Remasked, remask_tokens
from tsgen.ops.sample_code import sample_code
from tsgen.ops.separable_conv import Convolved, separable_conv
from tsgen.ops.snake import snake
from tsgen.ops.stft import stft
from tsgen.ops.sum_taps import Summed, sum_taps
from tsgen.ops.transformer_block import LayerWeights, transformer_block

__all__ = [
    "Convolved",
    "LayerWeights",
    "Nearest",
    "Remasked",
    "Summed",
    "attention",
    "draw_uniforms",
    "dropout",
    "embed_tokens",
    "feed_forward",
    "istft",
    "keep_confident",
    "linear_norm",
    "masked_cross_entropy",
    "nearest_code",
    "norm_linear",
    "normals",
    "philox",
    "remask_tokens",
    "sample_code",
    "separable_conv",
    "snake",
    "stft",
    "sum_taps",
    "transformer_block",
    "uniforms",
]
