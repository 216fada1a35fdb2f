"""A trained timevqvae 1.0.1 MaskGIT rebuilt from nothing but the names and shapes of its weights.

The package is not needed: every dotted name becomes a path of plain objects, numbers on the way
become lists, and the tensors at the end hang on an empty nn.Module. Nothing here computes anything.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

LENGTHS = {"convs": 8, "block": 5}  # layers of these lists, the last one without weights


def maskgit(state: dict[str, Tensor], *, length: int, n_classes: int, **settings: Any) -> Any:
    """What `tsgen.from_timevqvae` takes, with the weights of `state`.

    settings:  steps, choice_temperature: (low, high); guidance, heads, p_unconditional, dropout
    """
    root = branch(tree(state), ())
    root.vqvae.input_length, root.vqvae.n_fft = length, 4
    root.vqvae.decoder_l.x_channels = root.vqvae.decoder_l.decoder[-1][1].bias.shape[0] // 2
    root.n_classes, root.cfg_scale = n_classes, settings["guidance"]
    for transformer in (root.transformer_l, root.transformer_h):
        transformer.p_unconditional = settings["p_unconditional"]
        transformer.emb_dropout = settings["dropout"]
        for attention, _ in transformer.blocks.layers:
            attention.heads = settings["heads"]
    low_high = {
        name: dict(zip(("lf", "hf"), settings[name], strict=True))
        for name in ("steps", "choice_temperature")
    }
    root.sampling_logic = SimpleNamespace(num_sampling_steps=low_high["steps"])
    root.masking_logic = SimpleNamespace(choice_temperatures=low_high["choice_temperature"])
    return root


def tree(state: dict[str, Tensor]) -> dict[str, Any]:
    """{"a.b": t} as {"a": {"b": t}}."""
    root: dict[str, Any] = {}
    for name, tensor in state.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            node = node.setdefault(part, {})
        node[last] = tensor
    return root


def branch(node: Any, path: tuple[str, ...]) -> Any:
    """One node: a list where its children are numbered, a layer where it has tensors."""
    if isinstance(node, Tensor):
        return node
    children = {name: branch(child, (*path, name)) for name, child in node.items()}
    if all(name.isdecimal() for name in children):
        n = LENGTHS.get(path[-1], 1 + max(map(int, children)))
        return [children.get(str(i)) for i in range(n)]
    if any(isinstance(child, Tensor) for child in children.values()):
        return layer(children, path)
    return SimpleNamespace(**children)


def layer(children: dict[str, Any], path: tuple[str, ...]) -> nn.Module:
    """An object with these tensors and parts, and with the sizes that layers tell."""
    kind = nn.ConvTranspose2d if is_transposed(children, path) else nn.Module
    out = kind.__new__(kind)
    nn.Module.__init__(out)
    for name, child in children.items():
        if isinstance(child, Tensor):
            out.register_buffer(name, child)
        else:
            setattr(out, name, child)
    weight = children.get("weight_v", children.get("weight"))
    if weight is not None and weight.dim():
        out.out_channels = out.out_features = weight.shape[0]
        out.embedding_dim = weight.shape[-1]
    return out


def is_transposed(children: dict[str, Any], path: tuple[str, ...]) -> bool:
    """Decoders hold ordinary convolutions in "convs" and "proj" only."""
    weight = children.get("weight_v", children.get("weight", torch.empty(0)))
    ordinary = "convs" in path or "proj" in path
    return "decoder" in path and weight.dim() == 4 and not ordinary
