"""Keys and values of texts, computed once for all steps of an image: they depend on the text alone.

A sampler runs the UNet at every step on the same text states, and every cross-attention projects them to the same
keys and values again. Of the embedded world's UNet that is a ninth of the arithmetic, of Stable Diffusion's less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

_PROJECTIONS = ("to_k", "to_v")


@dataclass
class _Kept:
    """What values are projected from, and each layer's projection."""

    values: torch.Tensor
    projected: dict[nn.Module, torch.Tensor] = field(default_factory=dict)


class TextMemory:
    """What a UNet's attention layers projected text states to, while those are in use; threads may share one."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}

    @contextmanager
    def of(self, states: torch.Tensor, values: torch.Tensor | None = None) -> Iterator[None]:
        """Remember, in the body, every projection of this very tensor; values are projected from `values`, if given."""
        self._kept[id(states)] = _Kept(states if values is None else values)
        try:
            yield
        finally:
            del self._kept[id(states)]

    def project(self, kind: str, layer: nn.Module, compute: Callable, x: torch.Tensor) -> torch.Tensor:
        """`compute(x)`, or what it gave for `layer` before; `kind` is to_k or to_v."""
        kept = self._kept.get(id(x))
        if kept is None:  # a self-attention's: the image changes at every step
            return compute(x)
        if layer not in kept.projected:
            with torch.no_grad():  # gradients are of images: they never go to the text
                kept.projected[layer] = compute(kept.values if kind == "to_v" else x)
        return kept.projected[layer]


@contextmanager
def remembering(unet: nn.Module) -> Iterator[TextMemory]:
    """Let the UNet's attention layers use a memory in the body; they compute the same, once."""
    memory = TextMemory()
    kinds = {layer: name.rpartition(".")[2] for name, layer in unet.named_modules()}
    layers = [layer for layer, kind in kinds.items() if kind in _PROJECTIONS]
    own = [
        vars(layer).get("forward") for layer in layers
    ]  # a LoRA that is trained has one that is not its class's
    for layer in layers:
        layer.forward = partial(memory.project, kinds[layer], layer, layer.forward)
    try:
        yield memory
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward
