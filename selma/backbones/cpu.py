"""The same model, faster on a CPU: linear layers and convolutions by oneDNN, in the memory layout that it likes.

PyTorch multiplies float32 matrices by MKL, which uses half of what an AMD processor with AVX-512 can do, and convolves
by oneDNN, which uses all of it. A linear layer is a convolution of one pixel by one: as that, in channels-last layout,
it is the same matrix product, forwards and backwards, without a copy. `bench/README.md` has the figures.
"""

from __future__ import annotations

import platform

import torch
from torch import nn
from torch.nn import functional


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`functional.linear` of [n, tokens, in] by [out, in], as a convolution; other shapes are left to PyTorch."""
    if x.dim() != 3:
        return functional.linear(x, weight, bias)
    n, tokens, wide = x.shape
    pixels = x.reshape(n, tokens, 1, wide).permute(0, 3, 1, 2)
    kernel = weight.reshape(-1, 1, 1, wide).permute(0, 3, 1, 2)
    return functional.conv2d(pixels, kernel, bias).permute(0, 2, 3, 1).reshape(n, tokens, -1)


class Linear(nn.Linear):
    """A linear layer that computes as `linear`; its parameters, their names and its class's checks are nn.Linear's."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return linear(input, self.weight, self.bias)


def speed_up(*parts: nn.Module) -> None:
    """Let float32 modules on an x86 CPU compute as above, in place; any other is left as it is."""
    if not torch.backends.mkldnn.is_available() or platform.machine().lower() not in ("x86_64", "amd64"):
        return
    for part in parts:
        parameter = next(part.parameters())
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            continue
        part.to(memory_format=torch.channels_last)
        for layer in part.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = Linear
