"""A trainable LoRA on the UNet, by peft."""

from __future__ import annotations

import torch

from selma.ground.errors import UserError
from selma.runtime.devices import check_memory


def add_lora(unet: torch.nn.Module, rank: int, alpha: float, targets: list[str], seed: int) -> None:
    """Put a trainable adapter on every layer whose name ends in one of `targets`: A gaussian, B zero, fp32.

    A is drawn from `seed`, so experts that share the seed start from the same A, as in the paper.
    Raises UserError for a rank below 1 or beyond the memory, and for a target that names no layer of this UNet or one
    that is neither linear nor a convolution.
    """
    from peft import LoraConfig

    if rank < 1:
        raise UserError(f"expert.rank: {rank}; allowed: 1 or more")
    adapted = _layers(unet, targets)
    numbers = rank * sum(layer.weight[0].numel() + layer.weight.shape[0] for layer in adapted)
    check_memory(
        16 * numbers, adapted[0].weight.device, f"expert.rank: {rank}"
    )  # weight, gradient, two moments
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights="gaussian")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(config)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # an update of lr 1e-4 is lost in half precision


def _layers(unet: torch.nn.Module, targets: list[str]) -> list[torch.nn.Module]:
    """The layers that `targets` name, each checked for being one that an adapter, a merge and an export can hold."""
    found = []
    for target in targets:
        named = [(name, layer) for name, layer in unet.named_modules() if f".{name}".endswith(f".{target}")]
        if not named:
            raise UserError(
                f"expert.targets: {target!r} is not a layer of this UNet; e.g. to_q, to_k, to_v, to_out.0"
            )
        for name, layer in named:
            grouped = getattr(layer, "groups", 1) != 1
            if grouped or not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                kind = ("grouped " if grouped else "") + type(layer).__name__
                raise UserError(
                    f"expert.targets: {target!r} names {name}, a {kind}; allowed: Linear and Conv2d layers, "
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
