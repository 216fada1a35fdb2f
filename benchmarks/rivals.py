"""Every op's CPU kernel beside plain PyTorch and the best rival for it, forward and backward.

    python benchmarks/rivals.py [OP ...] [--rounds 30] [--threads N]

Rivals take turns in one process; a kernel or a rival is timed only after it has matched. Rows go to
results/rivals.json, with the machine's own ceilings (matrix product and copy, same run); those of
some ops only are printed. faiss and vector_quantize_pytorch take part where they are importable:
pip install -e ".[bench]".
"""

import argparse
import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import measure
import torch
import torch.nn.functional as F
from measure import Run
from torch import Tensor
from torch.distributions import Categorical

from tsgen import dispatch
from tsgen.measure import backward, ceilings, exact, mismatch, rates
from tsgen.ops import Nearest

KERNEL = "tsgen"
SECONDS = 60  # for one shape
# relative error of a rival: some are less exact than a kernel has to be
ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
DEVIATIONS = 5  # of a mean over the rows, where a rival draws with numbers of its own


class Rival(NamedTuple):
    """Somebody else's way to the same."""

    run: Run
    wrong: Callable[[Any], float]  # error of what it returns, of what is allowed


def stft_rivals(x: Tensor, window: Tensor, *how: int) -> dict[str, Rival]:
    wrong = like_baseline("stft", x, window, *how)
    return {"torch.stft": Rival(lambda: torch_stft(x, window, *how), wrong)}


def torch_stft(x: Tensor, window: Tensor, hop: int, first: int, end: int) -> Tensor:
    """Planes by torch.stft, which knows no bfloat16."""
    series, window = x.flatten(0, 1).float(), window.float()
    X = torch.stft(series, len(window), hop, window=window, return_complex=True)
    parts = torch.view_as_real(X[:, first:end]).permute(0, 3, 1, 2)
    return parts.reshape(x.shape[0], -1, end - first, X.shape[2]).to(x.dtype)


def istft_rivals(planes: Tensor, window: Tensor, *how: int) -> dict[str, Rival]:
    wrong = like_baseline("istft", planes, window, *how)
    return {"torch.istft": Rival(lambda: torch_istft(planes, window, *how), wrong)}


def torch_istft(planes: Tensor, window: Tensor, hop: int, first: int, length: int) -> Tensor:
    """Series by torch.istft."""
    (B, G, n_rows, T), W, window = planes.shape, len(window), window.float()
    parts = planes.float().view(B * G // 2, 2, n_rows, T).permute(0, 2, 3, 1).contiguous()
    X = F.pad(torch.view_as_complex(parts), (0, 0, first, W // 2 + 1 - first - n_rows))
    y = torch.istft(X, W, hop, window=window, length=length)
    return y.view(B, G // 2, -1).to(planes.dtype)


def like_baseline(op: str, *inputs: Any) -> Callable[[Any], float]:
    """How far a result lies from the baseline's in float64, by the op's own measure."""
    module = dispatch.module(op)

    @functools.cache
    def expected() -> tuple[Any, Any]:
        as_float64 = exact(inputs)
        return module.baseline(*as_float64), as_float64

    def wrong(out: Any) -> float:
        ref, as_float64 = expected()
        return float(module.error(out, ref, *as_float64) / ALLOWED[inputs[0].dtype])

    return wrong


def nearest_rivals(x: Tensor, codes: Tensor, stats: bool) -> dict[str, Rival]:
    judge = like_baseline("nearest_code", x, codes, False)

    def wrong(ids: Any) -> float:
        ids_N = torch.as_tensor(ids).reshape(-1)
        distance_N = (x.double() - codes.double()[ids_N]).square().sum(-1)
        return judge(Nearest(ids_N, distance_N, ids_N.new_empty(0), x[:0]))

    half = codes.square().sum(1) / 2
    runs: dict[str, Run] = {
        "addmm + argmin": lambda: torch.addmm(half, x, codes.T, alpha=-1).argmin(1),
        "cdist + argmin": lambda: torch.cdist(x, codes).argmin(1),
    }
    if x.device.type == "cpu" and importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatL2(codes.shape[1])
        index.add(codes.numpy())
        runs["faiss"] = lambda: index.search(x.numpy(), 1)[1]
    if importlib.util.find_spec("vector_quantize_pytorch"):
        runs["vector-quantize-pytorch"] = vector_quantize(x, codes, stats)
    return {name: Rival(run, wrong) for name, run in runs.items()}


def vector_quantize(x: Tensor, codes: Tensor, stats: bool) -> Run:
    """Its whole layer: in training, with statistics, it also moves its codes."""
    from vector_quantize_pytorch import VectorQuantize

    layer = VectorQuantize(dim=x.shape[1], codebook_size=len(codes)).train(stats).to(x)
    layer._codebook.embed.data.copy_(codes[None])
    layer._codebook.embed_avg.data.copy_(codes[None])
    return torch.no_grad()(lambda: layer(x[None])[1][0])  # type: ignore[no-any-return]


def attention_rivals(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> dict[str, Rival]:
    wrong = like_baseline("attention", q, k, v, None, None, None, None)
    return {"bare SDPA": Rival(lambda: F.scaled_dot_product_attention(q, k, v), wrong)}


def sample_rivals(h: Tensor, u: Tensor, weight: Any, bias: Any, *_: Any) -> dict[str, Rival]:
    def product() -> Tensor:
        return h if weight is None else F.linear(h, weight, bias)

    def logits() -> Tensor:
        return product().float()  # sums of 16-bit probabilities are no law

    def searched() -> Tensor:
        return torch.searchsorted(logits().softmax(-1).cumsum(-1), u.float()[:, None])

    def gumbel() -> Tensor:
        l = logits()
        return (l - torch.empty_like(l).exponential_().log()).argmax(-1)

    runs: dict[str, Run] = {
        "Categorical": lambda: Categorical(logits=logits()).sample(),
        "multinomial": lambda: torch.multinomial(logits().softmax(-1), 1),
        "Gumbel": gumbel,
        "cumsum + searchsorted": searched,
    }
    unlawful = functools.partial(away_from_law, logits)
    rivals = {name: Rival(run, unlawful) for name, run in runs.items()}
    if weight is not None:

        def wrong(out: Tensor) -> float:
            exactly = F.linear(*exact((h, weight, bias)))
            scale = exactly.abs().amax() * ALLOWED[h.dtype]
            return float((out - exactly).abs().amax() / scale)

        rivals["the product alone"] = Rival(product, wrong)
    return rivals


def away_from_law(logits: Callable[[], Tensor], ids: Tensor) -> float:
    """How far the mean log-probability of what was drawn is from its expectation."""
    logp_RK = logits().double().log_softmax(-1)
    drawn_R = logp_RK.gather(1, ids.view(-1, 1).clamp_max(logp_RK.shape[1] - 1))[:, 0]
    p_RK = logp_RK.exp()
    mean_R = (p_RK * logp_RK).sum(-1)
    variance_R = (p_RK * logp_RK.square()).sum(-1) - mean_R.square()
    return float((drawn_R - mean_R).sum().abs() / variance_R.sum().sqrt() / DEVIATIONS)


RIVALS: dict[str, Callable[..., dict[str, Rival]]] = {
    "stft": stft_rivals,
    "istft": istft_rivals,
    "nearest_code": nearest_rivals,
    "attention": attention_rivals,
    "sample_code": sample_rivals,
}


def cases(op: str, shape: Any) -> dict[str, dict[str, Run]]:
    """The rivals of one shape: forward, and forward with backward where there is one."""
    module = dispatch.module(op)
    inputs = module.make_inputs(shape, "cpu", torch.float32)
    kernel, gradient = dispatch.load(op, "cpu"), getattr(module, "Gradient", None)
    errors = {KERNEL: mismatch(op, "cpu", inputs)}
    forward: dict[str, Run] = {"baseline": lambda: module.baseline(*inputs)}
    for name, rival in RIVALS.get(op, lambda *_: {})(*inputs).items():
        errors[name] = rival.wrong(rival.run())
        forward[name] = rival.run
    assert max(errors.values()) <= 1, (op, shape, errors)
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
    if forward:
        out |= rates(op, shape, torch.float32, ours["p50_s"], top)
    out["times_faster_than"] = {
        name: measure.ratio(times, seconds[KERNEL])
        for name, times in seconds.items()
        if name != KERNEL
    }
    return out


def rounds(rivals: dict[str, Run], most: int) -> int:
    """As many as fit into the time for one shape, at least 5: a rival may take 1,000 times ours."""
    one = sum(seconds for (seconds,) in measure.interleaved(rivals, 1).values())
    return max(5, min(most, int(SECONDS / one)))


def main() -> None:
    native = [op for op, columns in dispatch.TABLE.items() if "cpu" in columns and op != "philox"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ops", nargs="*", default=native)
    parser.add_argument("--rounds", type=int, default=30, help="at most, of each shape")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    top = ceilings(args.rounds)
    rows = {}
    for op in args.ops:
        for shape in dispatch.module(op).BENCH_SHAPES:
            for what, rivals in cases(op, shape).items():
                seconds = measure.interleaved(rivals, rounds(rivals, args.rounds))
                key = f"{op} {shape} {what}"
                rows[key] = row(op, shape, seconds, what == "forward", top)
                ahead = {k: round(v, 2) for k, v in rows[key]["times_faster_than"].items()}
                print(f"{key}: {1e3 * rows[key]['p50_s']:.3f} ms, times faster than {ahead}")
    if args.ops != native:
        print("some ops only: nothing is saved")
        return
    about = {"ceilings": top, "machine": measure.machine()}
    measure.save("rivals", {f"threads: {args.threads}": {"rows": rows, **about}})


if __name__ == "__main__":
    main()
