"""Cross-attention maps: how much every place of an image reads every token of its text, with gradients to the image.

A map is the softmax over tokens of a layer's queries and keys, averaged over heads and over the layers of one
resolution, the one nearest to a quarter of the latents' side: 16 x 16 for Stable Diffusion at 512 px, where maps show
objects (Hertz et al., arXiv 2208.01626). The layers go on attending by PyTorch's fused kernels; what is watched is
computed beside them, and only while somebody looks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import UNet2DConditionModel

_WANTED = 2  # halvings of the latents' side


class _Enough(Exception):
    """All layers were seen; what comes after them does not change their maps."""


@dataclass
class _Look:
    """One pass through the UNet: the text's states, and the map of each layer so far, in order."""

    states: torch.Tensor
    maps: list[torch.Tensor] = field(default_factory=list)


class Watcher:
    """Watches a UNet's cross-attention; several threads may look at once."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self._unet = unet
        self._layers = cross_attention(unet)
        self._now = threading.local()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Let `look` see the layers, in the body; a pass that nobody looks at computes what it did."""
        queries = [layer.to_q for layer in self._layers]
        own = [vars(query).get("forward") for query in queries]
        for layer in self._layers:
            layer.to_q.forward = partial(self._see, layer, layer.to_q.forward)
        try:
            yield
        finally:
            for query, forward in zip(queries, own, strict=True):
                del query.forward
                if forward is not None:
                    query.forward = forward

    def look(self, latents: torch.Tensor, t: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """Maps [n, places, tokens], fp32, of latents [n, channels, h, w] at timestep `t`.

        The UNet runs as far as the last layer that is watched.
        """
        self._now.look = seen = _Look(inputs["encoder_hidden_states"])
        try:
            self._unet(latents.to(self._unet.dtype), t, **inputs, return_dict=False)
        except _Enough:
            pass
        finally:
            self._now.look = None
        return torch.stack(seen.maps).mean(dim=0)

    def _see(self, layer: nn.Module, compute: Callable, x: torch.Tensor) -> torch.Tensor:
        """`compute(x)`, the layer's queries; adds the layer's map where its thread looks."""
        queries = compute(x)
        look = getattr(self._now, "look", None)
        if look is not None:
            look.maps.append(_map(queries, layer.to_k(look.states), layer.heads, layer.scale))
            if len(look.maps) == len(self._layers):
                raise _Enough
        return queries


def _map(queries: torch.Tensor, keys: torch.Tensor, heads: int, scale: float) -> torch.Tensor:
    """softmax(Q K^T scale), averaged over heads: [n, places, tokens], fp32, of [n, places, c] and [n, tokens, c]."""
    queries, keys = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys))
    return (queries @ keys.transpose(-1, -2) * scale).softmax(dim=-1).mean(dim=1)


def cross_attention(unet: UNet2DConditionModel) -> list[nn.Module]:
    """The cross-attention layers at the resolution nearest to a quarter of the latents' side, in the order they run."""
    found: dict[int, list[nn.Module]] = {}
    level = 0
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        layers = [
            layer
            for name, layer in block.named_modules()
            if name.rpartition(".")[2] == "attn2" and layer.heads
        ]
        found.setdefault(level, []).extend(layers)
        level += bool(getattr(block, "downsamplers", None)) - bool(getattr(block, "upsamplers", None))
    nearest = min((level for level in found if found[level]), key=lambda level: abs(level - _WANTED))
    return found[nearest]
