"""Every op's CPU kernel beside plain PyTorch and the best rival for it, forward and backward.

    python benchmarks/rivals.py [OP ...] [--rounds 30] [--threads N]

Rivals take turns in one process; a kernel is timed only after it has matched; rows go to
results/rivals.json with the machine's own ceilings (matrix product and copy, same run). faiss and
vector_quantize_pytorch take part where they are importable.
"""

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

import measure
import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import dispatch

Run = Callable[[], object]
KERNEL = "tsgen"


def ceilings(rounds: int) -> dict[str, float]:
    """What this machine reaches: float32 matrix products, and copies (bytes read and written)."""
    a, b, big = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.randn(2**24)
    to = torch.empty_like(big)
    seconds = measure.interleaved({"mm": lambda: a @ b, "copy": lambda: to.copy_(big)}, rounds)
    fast = {name: min(times) for name, times in seconds.items()}
    return {"gflop_per_s": 2 * 1024**3 / fast["mm"] / 1e9, "gb_per_s": 2**27 / fast["copy"] / 1e9}


def stft_rivals(x: Tensor, window: Tensor, hop: int, first: int, end: int) -> dict[str, Run]:
    def planes() -> Tensor:
        X = torch.stft(x.flatten(0, 1), len(window), hop, window=window, return_complex=True)
        parts = torch.view_as_real(X[:, first:end]).permute(0, 3, 1, 2)
        return parts.reshape(x.shape[0], -1, end - first, X.shape[2])

    return {"torch.stft": planes}


def istft_rivals(planes: Tensor, window: Tensor, hop: int, first: int, length: int) -> Any:
    B, G, n_rows, T = planes.shape

    def series() -> Tensor:
        parts = planes.view(B * G // 2, 2, n_rows, T).permute(0, 2, 3, 1).contiguous()
        X = F.pad(
            torch.view_as_complex(parts), (0, 0, first, len(window) // 2 + 1 - first - n_rows)
        )
        return torch.istft(X, len(window), hop, window=window, length=length)

    return {"torch.istft": series}


def nearest_rivals(x: Tensor, codes: Tensor, stats: bool) -> dict[str, Run]:
    half = codes.square().sum(1) / 2
    rivals: dict[str, Run] = {
        "addmm + argmin": lambda: torch.addmm(half, x, codes.T, alpha=-1).argmin(1)
    }
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatL2(codes.shape[1])
        index.add(codes.numpy())
        rivals["faiss"] = lambda: index.search(x.numpy(), 1)
    return rivals


def attention_rivals(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> dict[str, Run]:
    return {"bare SDPA": lambda: F.scaled_dot_product_attention(q, k, v)}


def sample_rivals(h: Tensor, u: Tensor, weight: Any, bias: Any, *_: Any) -> dict[str, Run]:
    def logits() -> Tensor:
        return h if weight is None else F.linear(h, weight, bias)

    def searched() -> Tensor:
        return torch.searchsorted(logits().softmax(-1).cumsum(-1), u.float()[:, None])

    rivals: dict[str, Run] = {
        "multinomial": lambda: torch.multinomial(logits().softmax(-1), 1),
        "Gumbel": lambda: (logits() - torch.empty_like(logits()).exponential_().log()).argmax(-1),
        "cumsum + searchsorted": searched,
    }
    if weight is not None:
        rivals["the product alone"] = logits
    return rivals


RIVALS: dict[str, Callable[..., dict[str, Run]]] = {
    "stft": stft_rivals,
    "istft": istft_rivals,
    "nearest_code": nearest_rivals,
    "attention": attention_rivals,
    "sample_code": sample_rivals,
}


def flops(op: str, shape: Any) -> float:
    """Additions and multiplications of the products in an op; 0 where memory is what counts."""
    if op == "nearest_code":
        N, K, D, _ = shape
        return 2.0 * N * K * D
    if op == "attention":
        B, H, M, N, D, *_ = shape
        return 4.0 * B * H * M * N * D
    if op in ("sample_code", "masked_cross_entropy"):
        R, K, D = shape[:3] if op == "sample_code" else shape[1:4]
        return 2.0 * R * K * D
    return 0.0


def backward(run: Callable[..., Any], inputs: Any, wanted: tuple[int, ...]) -> Run:
    """Forward and backward of one call."""
    args = list(inputs)
    leaves = []
    for i in wanted:
        if args[i] is not None:
            args[i] = args[i].detach().requires_grad_()
            leaves.append(args[i])
    grad = torch.ones_like(run(*args))
    return lambda: torch.autograd.grad(run(*args), leaves, grad)


def cases(op: str, shape: Any) -> dict[str, dict[str, Run]]:
    """The rivals of one shape: forward, and forward with backward where there is one."""
    module = dispatch.module(op)
    inputs = module.make_inputs(shape, "cpu", torch.float32)
    kernel, gradient = dispatch.load(op, "cpu"), getattr(module, "Gradient", None)
    exact = [t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for t in inputs]
    error = module.error(kernel(*inputs), module.baseline(*exact), *exact)
    assert error <= module.TOLERANCE[torch.float32], (op, shape, error)
    rivals = RIVALS.get(op, lambda *_: {})(*inputs)
    forward: dict[str, Run] = {"baseline": lambda: module.baseline(*inputs), **rivals}
    out = {"forward": forward | {KERNEL: lambda: kernel(*inputs)}}
    if gradient is not None:
        both = {
            "baseline": backward(module.baseline, inputs, module.DIFFERENTIABLE),
            KERNEL: backward(lambda *a: gradient.apply(*a, "cpu"), inputs, module.DIFFERENTIABLE),
        }
        if op == "attention":
            bare = F.scaled_dot_product_attention
            both["bare SDPA"] = backward(bare, inputs[:3], (0, 1, 2))
        out["forward + backward"] = both
    return out


def row(op: str, shape: Any, seconds: dict[str, list[float]], forward: bool, top: Any) -> Any:
    """One line of results: times, rates, fraction of the ceiling, and how far ahead of whom."""
    ours = measure.summary(seconds[KERNEL])
    out: dict[str, Any] = {key: value for key, value in ours.items() if key != "all_s"}
    work = flops(op, shape)
    if forward and work:
        out["gflop_per_s"] = work / ours["p50_s"] / 1e9
        out["of_ceiling"] = out["gflop_per_s"] / top["gflop_per_s"]
    elif forward:
        n_bytes = dispatch.module(op).bytes_moved(shape, torch.float32)
        out["gb_per_s"] = n_bytes / ours["p50_s"] / 1e9
        out["of_ceiling"] = out["gb_per_s"] / top["gb_per_s"]
    out["times_faster_than"] = {
        name: measure.ratio(times, seconds[KERNEL])
        for name, times in seconds.items()
        if name != KERNEL
    }
    return out


def main() -> None:
    native = [op for op, columns in dispatch.TABLE.items() if "cpu" in columns and op != "philox"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ops", nargs="*", default=native)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    top = ceilings(args.rounds)
    rows = {}
    for op in args.ops:
        for shape in dispatch.module(op).BENCH_SHAPES:
            for what, rivals in cases(op, shape).items():
                seconds = measure.interleaved(rivals, args.rounds)
                key = f"{op} {shape} {what}"
                rows[key] = row(op, shape, seconds, what == "forward", top)
                ahead = {k: round(v, 2) for k, v in rows[key]["times_faster_than"].items()}
                print(f"{key}: {1e3 * rows[key]['p50_s']:.3f} ms, times faster than {ahead}")
    about = {"ceilings": top, "machine": measure.machine()}
    measure.save("rivals", {f"threads: {args.threads}": {"rows": rows, **about}})


if __name__ == "__main__":
    main()
