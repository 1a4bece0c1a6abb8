"""A trainable LoRA on the UNet, by peft."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch.nn import functional

from selma.backbones.cpu import linear
from selma.ground.errors import UserError
from selma.runtime.devices import check_memory


def add_lora(
    unet: torch.nn.Module, rank: int, alpha: float, targets: list[str], seed: int, section: str = "expert"
) -> None:
    """Put a trainable adapter on every layer whose name ends in one of `targets`: A gaussian, B zero, fp32.

    A is drawn from `seed`, so experts that share the seed start from the same A, as in the paper.
    Raises UserError, naming `section` of params.yaml, for a rank below 1 or beyond the memory, and for a target that
    names no layer of this UNet or one that is neither linear nor a convolution.
    """
    from peft import LoraConfig
    from peft.tuners.lora import Conv2d as LoraConv2d
    from peft.tuners.lora import Linear as LoraLinear

    if rank < 1:
        raise UserError(f"{section}.rank: {rank}; allowed: 1 or more")
    adapted = _layers(unet, targets, section)
    numbers = rank * sum(layer.weight[0].numel() + layer.weight.shape[0] for layer in adapted)
    check_memory(
        16 * numbers, adapted[0].weight.device, f"{section}.rank: {rank}"
    )  # weight, gradient, two moments
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights="gaussian")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(config)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # an update of lr 1e-4 is lost in half precision
    for layer in unet.modules():
        if isinstance(layer, LoraLinear):
            layer.forward = partial(_merged if _is_cheaper_merged(layer) else _beside, layer)
        elif isinstance(layer, LoraConv2d):
            layer.forward = partial(_convolution, layer)


NAME = "default"  # of the adapter, as diffusers calls it


_switch = (
    threading.local()
)  # parts of a batch are computed in threads: one may be without the adapter, another with


@contextmanager
def without_adapter() -> Iterator[None]:
    """Let this thread compute without the adapters of `add_lora` in the body: by the base model alone, exactly."""
    before, _switch.off = _is_off(), True
    try:
        yield
    finally:
        _switch.off = before


def _is_off() -> bool:
    return getattr(_switch, "off", False)


def _beside(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """W x + s B (A x), in the base model's precision: peft computes the LoRA's part in float32, in four passes."""
    out = layer.base_layer(x)
    if _is_off():
        return out
    a, b = (factor[NAME].weight.to(x.dtype) for factor in (layer.lora_A, layer.lora_B))
    down = functional.linear(x, a).flatten(0, -2)
    return torch.addmm(out.flatten(0, -2), down, b.t(), alpha=layer.scaling[NAME]).view_as(out)


def _merged(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(W + s B A) x: the same function and gradients."""
    if _is_off():
        return layer.base_layer(x)
    base, a, b = layer.base_layer, layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    return linear(x, torch.addmm(base.weight, b, a, alpha=layer.scaling[NAME]), base.bias)


def _convolution(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """As peft computes a convolution's."""
    return layer.base_layer(x) if _is_off() else type(layer).forward(layer, x)


def _is_cheaper_merged(layer: torch.nn.Module) -> bool:
    """Whether the merged product's dense gradient costs less than the thin products of A and B.

    Forwards and backwards those are six of rows x rank x (in + out), at a quarter of the speed of a square one (CPU,
    ranks of 4 to 32: their reads and writes dominate); the dense gradient is one of rows x in x out. A sum in half
    precision would round the small update away.
    """
    weight, rank = layer.base_layer.weight, layer.r[NAME]
    exact = weight.dtype == torch.float32 and weight.device.type == "cpu"
    return exact and weight.numel() <= 12 * rank * sum(weight.shape)


def _layers(unet: torch.nn.Module, targets: list[str], section: str) -> list[torch.nn.Module]:
    """The layers that `targets` name, each checked for being one that an adapter, a merge and an export can hold."""
    found = []
    for target in targets:
        named = [(name, layer) for name, layer in unet.named_modules() if f".{name}".endswith(f".{target}")]
        if not named:
            raise UserError(
                f"{section}.targets: {target!r} is not a layer of this UNet; e.g. to_q, to_k, to_v, to_out.0"
            )
        for name, layer in named:
            grouped = getattr(layer, "groups", 1) != 1
            if grouped or not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                kind = ("grouped " if grouped else "") + type(layer).__name__
                raise UserError(
                    f"{section}.targets: {target!r} names {name}, a {kind}; allowed: Linear and Conv2d layers, "
                    "e.g. to_q, to_k, to_v, to_out.0, proj_in, conv1"
                )
            found.append(layer)
    return found


def lora_parameters(unet: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The adapter's trainable parameters by name, in the model's order."""
    return {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}


def lora_state(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The adapter on the CPU: "<module>.lora_A.weight" and "<module>.lora_B.weight" (LoraWeights' A and B)."""
    from peft.utils import get_peft_model_state_dict

    return {key: value.detach().cpu().contiguous() for key, value in get_peft_model_state_dict(unet).items()}


@contextmanager
def fused(unet: torch.nn.Module) -> Iterator[None]:
    """Let linear layers compute with W + s B A in the body, summed once: for drawing with an adapter that is trained.

    Of a model in half precision, whose sum would round the update away, and of convolutions nothing changes.
    """
    from peft.tuners.lora import Linear as LoraLinear

    layers = [
        layer
        for layer in unet.modules()
        if isinstance(layer, LoraLinear) and layer.base_layer.weight.dtype == torch.float32
    ]
    own = [layer.forward for layer in layers]
    with torch.no_grad():
        for layer in layers:
            a, b = (factor[NAME].weight for factor in (layer.lora_A, layer.lora_B))
            weight = torch.addmm(layer.base_layer.weight, b, a, alpha=layer.scaling[NAME])
            layer.forward = partial(linear, weight=weight, bias=layer.base_layer.bias)
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            layer.forward = forward
