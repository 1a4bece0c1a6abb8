"""A bank: several LoRA experts beside each layer of one UNet, all computed by one pair of products.

    out = W x + sum_k w_k s_k B_k A_k x,   A = [A_1; ...; A_K] stacked,  B = [s_1 B_1, ..., s_K B_K]

The weights w are the layer's own gate's, softmax(W_g x) (MoE-LoRA, SELMA, arXiv 2403.06952, appendix E), or given for
each example; without either the layer is the base model's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from selma.ground.errors import UserError

Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # layer -> (down [R, in], up [out, R])

_given = threading.local()  # parts of a batch are computed in threads, each with its own examples


def add_bank(unet: nn.Module, factors: Factors, ranks: Sequence[int], scalings: Sequence[float]) -> None:
    """Put K experts' stacked factors beside the UNet's layers, frozen; they count for nothing until they have weights.

    `ranks` and `scalings` are the experts'. A convolution's factors are [R, in, h, w] and [out, R, 1, 1].
    Raises UserError for a layer that this UNet has not, or not in this shape.
    """
    layers = dict(unet.named_modules())
    for name, (down, up) in factors.items():
        layer, shape = layers.get(name), (up.shape[0], *down.shape[1:])
        weight = getattr(layer, "weight", None)
        if weight is None or tuple(weight.shape) != shape:
            raise UserError(f"{name} is of shape {shape}; this backbone has no such layer")
        expert = torch.arange(len(ranks)).repeat_interleave(torch.tensor(ranks))
        scaled = up.float() * torch.tensor(scalings)[expert].view(1, -1, *[1] * (up.dim() - 2))
        for part, value in (("down", down), ("up", scaled)):
            value = value.to(weight.device, weight.dtype)
            layer.register_buffer(f"bank_{part}", value, persistent=False)
        layer.register_buffer("bank_expert", expert.to(weight.device), persistent=False)
        layer.register_parameter("gate", None)
        layer.forward = partial(_linear if down.dim() == 2 else _convolution, layer)


def add_gates(unet: nn.Module, gates: Mapping[str, torch.Tensor] | None = None) -> None:
    """Give each layer of the bank a gate [K, in], in fp32: the one in `gates` by its name, or zeros that are trained.

    At zero all experts weigh 1/K: the mean of their updates. Raises UserError for a convolution.
    """
    for name, layer in unet.named_modules():
        if "bank_down" not in getattr(layer, "_buffers", ()):
            continue
        if layer.bank_down.dim() != 2:
            raise UserError(f"{name} is a convolution; gates weigh the experts of linear layers alone")
        count = int(layer.bank_expert[-1]) + 1
        zeros = torch.zeros(count, layer.bank_down.shape[1])
        gate = (zeros if gates is None else gates[name]).to(layer.weight.device, torch.float32)
        layer.gate = nn.Parameter(gate, requires_grad=gates is None)


@contextmanager
def weighted(weights: torch.Tensor) -> Iterator[None]:
    """Let experts without gates weigh as `weights` [n, K] says for each example, in the body and in this thread."""
    before, _given.weights = getattr(_given, "weights", None), weights
    try:
        yield
    finally:
        _given.weights = before


def _weights(layer: nn.Module, x: torch.Tensor) -> torch.Tensor | None:
    """The experts' weights, [..., K] in x's precision; None where there are none."""
    if layer.gate is not None:
        return functional.linear(x.float(), layer.gate).softmax(dim=-1).to(x.dtype)
    given = getattr(_given, "weights", None)
    return None if given is None else given.to(x.dtype).view(len(given), *[1] * (x.dim() - 2), -1)


def _linear(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out, weights = type(layer).forward(layer, x), _weights(layer, x)
    if weights is None:
        return out
    down = functional.linear(x, layer.bank_down) * weights[..., layer.bank_expert]
    added = torch.addmm(out.flatten(0, -2), down.flatten(0, -2), layer.bank_up.t())
    return added.view_as(out)


def _convolution(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out, given = type(layer).forward(layer, x), getattr(_given, "weights", None)
    if given is None:
        return out
    weights = given.to(x.dtype)[:, layer.bank_expert, None, None]
    down = layer._conv_forward(x, layer.bank_down, None) * weights
    return out + functional.conv2d(down, layer.bank_up)
