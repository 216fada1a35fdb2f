"""A prior in fused ops, on weights folded once: what engine cuda captures.

    embed_tokens -> (norm_linear -> attention -> linear_norm -> feed_forward) x layers
                 -> linear_norm -> sample_code

A layer may also be one op, transformer_block, and a band's whole loop one kernel: persistent.py.

The same numbers as `tsgen.prior`, in few launches. Every op sums a row in an order of its own, so
that no result depends on what is computed beside it; PyTorch's products and convolutions do not.
Weights are folded in float64 and rounded once; gains, shifts and biases stay wide.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import dispatch, native_tokens, ops, persistent
from tsgen.config import SamplingConfig
from tsgen.context import Context, around, stretched
from tsgen.errors import bad_value
from tsgen.layers import folded
from tsgen.ops.stft import compute_dtype
from tsgen.prior import Prior
from tsgen.schedule import masked_counts
from tsgen.transformer import Block


class Kind(NamedTuple):
    """Where weights go, what of, and which kernels compute with them: see CudaEngine."""

    dtype: torch.dtype
    device: torch.device
    kernels: str = "auto"

    def wants(self, kernels: str, name: str) -> bool:
        """Whether these kernels are asked for, or `name` was measured to win."""
        return self.kernels == kernels or (
            self.kernels == "auto" and dispatch.measured_faster(name, self.dtype)
        )

    def matrix(self, t: Tensor) -> Tensor:
        """A factor of a product."""
        return t.detach().to(self.device, self.dtype).contiguous()

    def vector(self, t: Tensor) -> Tensor:
        """A gain, a shift or a bias: few, so they stay wide."""
        wide = compute_dtype(torch.empty(0, dtype=self.dtype))
        return t.detach().to(self.device, wide).contiguous()


class FusedBlock:
    """One transformer layer: a kernel for each of its parts, or one for all of it."""

    def __init__(self, block: Block, kind: Kind, n_tokens: int) -> None:
        attention, feed_forward = block.attention, block.feed_forward
        self.weights = ops.LayerWeights(
            *norm(attention.norm_in, kind),
            kind.matrix(attention.qkv.weight),
            kind.vector(attention.null_kv),
            kind.vector(attention.q_scale),
            kind.vector(attention.k_scale),
            kind.matrix(attention.out.weight),
            *norm(attention.norm_out, kind),
            *norm(feed_forward.norm_in, kind),
            padded(kind.matrix(feed_forward.up.weight)),
            *norm(feed_forward.norm_mid, kind),
            padded(kind.matrix(feed_forward.down.weight)),
        )
        self.whole = self.as_one(kind, 1 + n_tokens)

    def as_one(self, kind: Kind, T: int) -> bool:
        """Whether one kernel computes the layer: where it was measured to win, or as asked."""
        if not kind.wants("layers", "transformer_block"):
            return False
        why = dispatch.obstacle("transformer_block", "cuda", kind.device.type, kind.dtype)
        if why is None:
            (_, H, Dh), (F, D) = self.weights.null_kv_2HC.shape, self.weights.up_FD.shape
            why = native_tokens.transformer_block_obstacle(kind.device, T, D, H, Dh, F)
        if why and kind.kernels == "layers":
            raise bad_value("kernels", "those that can run this network", f"'layers': {why}")
        return why is None

    def __call__(self, x_STD: Tensor, rows_R: Tensor | None = None) -> Tensor:
        """All tokens (S, T, D); or rows R of them, as many in every sequence: (S, R / S, D)."""
        if self.whole and rows_R is None:
            return ops.transformer_block(x_STD, self.weights, backend="cuda")
        return in_parts(x_STD, self.weights, rows_R)


def in_parts(x_STD: Tensor, w: ops.LayerWeights, rows_R: Tensor | None = None) -> Tensor:
    """The same by four ops, or five where only some rows are asked for."""
    (S, _, D), x_RD, (_, H, Dh) = x_STD.shape, x_STD.flatten(0, 1), w.null_kv_2HC.shape
    norm_in = w.gain_in_D, w.shift_in_D

    def heads(x_RE: Tensor) -> tuple[Tensor, ...]:
        """Views (S, H, N, Dh) of each part of rows (S N, parts H Dh)."""
        parts = x_RE.view(S, -1, x_RE.shape[1] // (H * Dh), H, Dh)
        return tuple(part.transpose(1, 2) for part in parts.unbind(2))

    if rows_R is None:
        q, k, v = heads(ops.norm_linear(x_RD, w.qkv_ED, *norm_in))
    else:
        (q,) = heads(ops.norm_linear(x_RD, w.qkv_ED[: H * Dh], *norm_in, rows_M=rows_R))
        k, v = heads(ops.norm_linear(x_RD, w.qkv_ED[H * Dh :], *norm_in))
    mixed = ops.attention(q, k, v, w.null_kv_2HC, w.q_scale_C, w.k_scale_C)
    mixed_RI, norm_out = mixed.transpose(1, 2).reshape(-1, H * Dh), (w.gain_out_D, w.shift_out_D)
    x_RD = ops.linear_norm(mixed_RI, w.out_DI, *norm_out, residual_SD=x_RD, rows_R=rows_R)
    norms = w.gain_ff_D, w.shift_ff_D, w.up_FD, w.gain_mid_F, w.shift_mid_F
    return ops.feed_forward(x_RD, *norms, w.down_DF).view(S, -1, D)


class FusedContext:
    """What the high band sees of the low one; its first convolution as tables of the codes."""

    def __init__(self, context: Context, weight_DE: Tensor, kind: Kind) -> None:
        M, (rows, width) = context.n_low, context.grid
        tables = torch.einsum("ke,fet->ktf", context.embed(), context.conv_in.weight)
        self.shape = tables.shape[1:]
        self.tables = kind.matrix(tables.flatten(1))
        columns = torch.arange(M) if context.aligned else stretched(M, rows * width)
        self.columns = columns.to(kind.device)
        self.bias = kind.vector(cast(Tensor, context.conv_in.bias))
        self.size, (self.dilation,) = context.conv_out.kernel_size[0], context.conv_out.dilation
        # the norm's gain goes into the weights; its shift is not seen where zeros stand outside
        gain_F, shift_F = folded(context.norm)
        weight, bias = context.projected(weight_DE)  # (rows, D, finer, 2E, taps), (rows, D, finer)
        maps = weight.permute(0, 2, 1, 4, 3).flatten(0, 1)  # (maps, D, taps, 2E)
        self.maps = kind.matrix((maps * gain_F).flatten(0, 1).flatten(1))
        inside = around(weight.new_ones(1, len(columns), 1), self.size, self.dilation)[0]
        shift = torch.einsum("pdtf,f,ct->cpd", maps, shift_F, inside)
        shift += bias.permute(0, 2, 1).flatten(0, 1)
        # the place of (row, column) among (low token, map)
        n_maps = len(maps)
        if context.aligned:
            at = stretched(M * context.finer, width)
            place = at // context.finer * n_maps + at % context.finer
            place = torch.cat([place + row * context.finer for row in range(rows)])
        else:
            place = torch.arange(rows * width)
        self.place = place.to(kind.device)
        self.shift_ND = kind.vector(shift.flatten(0, 1)[place])

    def __call__(self, low_BM: Tensor) -> Tensor:
        """(B, N, D), but for the shift, which is the same for all."""
        products = F.embedding(low_BM, self.tables).unflatten(2, self.shape)
        h_BCF = ops.sum_taps(products, self.columns, self.bias).h_BNF
        seen = around(h_BCF, self.size, self.dilation)
        maps = ops.norm_linear(seen.flatten(0, 1), self.maps)
        return maps.view(len(seen), -1, self.shift_ND.shape[1])[:, self.place]


class FusedPrior:
    """Transformer of one band."""

    def __init__(self, prior: Prior, kind: Kind) -> None:
        """Fold the weights of a prior that is float64, on the CPU and in eval mode."""
        tables, width = prior.fold(), prior.embed.free.shape[1]
        self.n_tokens, self.n_codes, self.n_classes = prior.n_tokens, prior.n_codes, prior.n_classes
        self.plans: dict[tuple[str, int], Tensor] = {}
        self.kind = kind
        self.context, places_ND = None, kind.vector(tables.places_ND)
        if prior.context is not None:
            weight_DE = prior.project_in.weight[:, :-width]
            self.context = FusedContext(prior.context, weight_DE, kind)
            places_ND = kind.vector(tables.places_ND) + self.context.shift_ND
        self.tables = (
            kind.matrix(tables.tokens_KD),
            places_ND,
            kind.vector(tables.classes_CD),
        )
        self.blocks = [FusedBlock(cast(Block, b), kind, self.n_tokens) for b in prior.blocks]
        self.head_in = kind.matrix(prior.head_in.weight)
        self.head_norm = norm(prior.head_norm, kind)
        self.head_in_bias = kind.vector(cast(Tensor, prior.head_in.bias))
        self.eps = prior.head_norm.eps
        self.head_KD = kind.matrix(tables.head_KD)
        self.head_bias_K = kind.vector(prior.head_bias)
        # with everything masked and no context a sample is its class: (n_classes + 1, N, D)
        self.first_CND = None if self.context else self.once_a_class(kind.device)

    def counts(self, schedule: str, steps: int) -> Tensor:
        """Masked positions after each step where none is known: (S,) int64 on the device."""
        if (schedule, steps) not in self.plans:
            counts = masked_counts(schedule, steps, self.n_tokens)
            self.plans[schedule, steps] = torch.tensor(counts, device=self.head_KD.device)
        return self.plans[schedule, steps]

    def by_one_kernel(self, settings: SamplingConfig, band: int, *, known: bool) -> bool:
        """Whether one kernel decodes the band: where it was measured to be faster, or as asked."""
        if not self.kind.wants("bands", "decode"):
            return False
        why = "takes no known tokens" if known else persistent.obstacle(self, settings, band)
        if why and self.kind.kernels == "bands":
            raise bad_value("kernels", "those that can draw so", f"'bands', which {why}")
        return why is None

    def once_a_class(self, device: torch.device) -> Tensor:
        class_C = torch.arange(self.n_classes + 1, device=device)
        shape = len(class_C), self.n_tokens
        ids_CN = torch.full(shape, self.n_codes, device=device)
        rows_CN = self.starts(len(class_C)) + torch.arange(self.n_tokens, device=device)
        return self.hidden(ids_CN, class_C, rows_CN, None)

    def starts(self, n: int) -> Tensor:
        """The row of the first token of n sequences, which is behind their class: (n, 1)."""
        T = 1 + self.n_tokens
        return torch.arange(1, 1 + n * T, T, device=self.head_KD.device)[:, None]

    def hidden(
        self, ids_BN: Tensor, class_S: Tensor, rows_SM: Tensor, context_BND: Tensor | None
    ) -> Tensor:
        """What the head's last layer gets at the rows asked for: (S, M, D).

        class_S:  of each pass over the B sequences, one pass behind the other
        rows_SM:  of each pass and sequence, see `starts`
        """
        x_STD = ops.embed_tokens(*self.tables, ids_BN, class_S, context_BND)
        S, _, D = x_STD.shape
        *early, last = self.blocks
        for block in early:
            x_STD = block(x_STD)
        x_SMD = last(x_STD, rows_SM.flatten())
        h_RD = ops.linear_norm(
            x_SMD.flatten(0, 1),
            self.head_in,
            *self.head_norm,
            bias_D=self.head_in_bias,
            gelu=True,
            eps=self.eps,
        )
        return h_RD.view(S, -1, D)


def norm(module: torch.nn.Module, kind: Kind) -> tuple[Tensor, Tensor]:
    """Gain and shift of a layer norm."""
    layer = cast(torch.nn.LayerNorm, module)
    return kind.vector(layer.weight), kind.vector(layer.bias)


def padded(weight: Tensor) -> Tensor:
    """The same in rows of a whole number of 32 bytes, so that loads are aligned."""
    width = weight.shape[1]
    return F.pad(weight, (0, -width % 16))[:, :width]
