"""Rivals beyond those of rivals.py that there are on a GPU."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from gpu_report import PARTS_OF_OP
from rivals import RIVALS, Rival, like_baseline, torch_istft, torch_stft
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from tsgen.fused import in_parts
from tsgen.measure import Run, backward
from tsgen.ops import LayerWeights

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
SDPA = {
    "SDPA flash": SDPBackend.FLASH_ATTENTION,
    "SDPA efficient": SDPBackend.EFFICIENT_ATTENTION,
    "SDPA cudnn": SDPBackend.CUDNN_ATTENTION,
    "SDPA math": SDPBackend.MATH,
}


def rivals(op: str, inputs: Any, compiler: str) -> dict[str, Rival]:
    """All rivals of an op; those of torch.compile where there is a `compiler`."""
    found = RIVALS.get(op, lambda *_: {})(*inputs)
    return found | MORE.get(op, lambda *_: {})(*inputs, compiler)


def both_ways(op: str, inputs: Any, compiler: str) -> dict[str, Callable[[], Run]]:
    """By name, what makes forward and backward of the rivals that have a derivative."""
    if op == "attention":
        functions = attention_functions(compiler)
        make = functools.partial(functools.partial, backward)
        return {name: make(run, inputs[:3], (0, 1, 2)) for name, run in functions.items()}
    if op in TRANSFORMS:
        name, run = TRANSFORMS[op]
        return {name: functools.partial(backward, run, inputs, (0,))}
    return {}


TRANSFORMS = {"stft": ("torch.stft", torch_stft), "istft": ("torch.istft", torch_istft)}


@functools.cache
def compiled(run: Callable[..., Any], compiler: str) -> Callable[..., Any]:
    return torch.compile(run, dynamic=False, backend=compiler)  # type: ignore[no-any-return]


def searched(half: Tensor, x: Tensor, codes: Tensor) -> Tensor:
    return torch.addmm(half, x, codes.T, alpha=-1).argmin(1)


def nearest_rivals(x: Tensor, codes: Tensor, stats: bool, compiler: str) -> dict[str, Rival]:
    if not compiler:
        return {}
    half, run = codes.square().sum(1) / 2, compiled(searched, compiler)
    wrong = RIVALS["nearest_code"](x, codes, stats)["addmm + argmin"].wrong
    return {"addmm + argmin, torch.compile": Rival(lambda: run(half, x, codes), wrong)}


def attention_functions(compiler: str) -> dict[str, Attention]:
    """Bare attention: without null key, lengths and normalisation."""

    def forced(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    functions: dict[str, Attention] = {
        name: functools.partial(forced, backend) for name, backend in SDPA.items()
    }
    functions["bare SDPA"] = F.scaled_dot_product_attention
    if compiler:
        functions["flex_attention, torch.compile"] = compiled(flex_attention, compiler)
    return functions


def attention_rivals(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> dict[str, Rival]:
    wrong = like_baseline("attention", q, k, v, None, None, None, None)
    functions = attention_functions(rest[-1])
    return {name: Rival(functools.partial(f, q, k, v), wrong) for name, f in functions.items()}


def sample_rivals(h: Tensor, u: Tensor, weight: Any, bias: Any, *_: Any) -> dict[str, Rival]:
    if not importlib.util.find_spec("flashinfer"):
        return {}
    from flashinfer.sampling import sampling_from_logits

    unlawful = RIVALS["sample_code"](h, u, weight, bias)["multinomial"].wrong

    def drawn() -> Tensor:
        logits = h if weight is None else F.linear(h, weight, bias)
        return sampling_from_logits(logits.float()).long()  # type: ignore[no-any-return]

    return {"flashinfer": Rival(drawn, unlawful)}


def keep_rivals(confidence: Tensor, n_masked: Tensor, _: str) -> dict[str, Rival]:
    most = int(n_masked.max())  # in sampling all rows have one count, and it is known

    def scattered() -> Tensor:
        lowest = confidence.topk(most, largest=False).indices
        again = torch.arange(most, device=lowest.device) < n_masked[:, None]
        return torch.zeros_like(confidence, dtype=torch.bool).scatter(1, lowest, again)

    def wrong(masked: Tensor) -> float:
        """Rows of a wrong count, or that keep what is less confident: ties are free."""
        highest = confidence.masked_fill(~masked, -torch.inf).amax(1)
        lowest = confidence.masked_fill(masked, torch.inf).amin(1)
        return float(((masked.sum(1) != n_masked) | (highest > lowest)).sum() * 2)

    return {"topk + scatter": Rival(scattered, wrong)}


def block_rivals(x: Tensor, *args: Any) -> dict[str, Rival]:
    weights, eps = LayerWeights(*args[:-2]), args[-2]
    wrong = like_baseline("transformer_block", x, *weights, eps)
    return {PARTS_OF_OP: Rival(lambda: in_parts(x, weights), wrong)}


MORE: dict[str, Callable[..., dict[str, Rival]]] = {
    "nearest_code": nearest_rivals,
    "attention": attention_rivals,
    "sample_code": sample_rivals,
    "keep_confident": keep_rivals,
    "transformer_block": block_rivals,
}
