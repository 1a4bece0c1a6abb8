"""A trainable LoRA on the UNet, by peft."""

from __future__ import annotations

import torch

from selma.ground.errors import UserError


def add_lora(unet: torch.nn.Module, rank: int, alpha: float, targets: list[str], seed: int) -> None:
    """Put a trainable adapter on every layer whose name ends in one of `targets`: A gaussian, B zero, fp32.

    A is drawn from `seed`, so experts that share the seed start from the same A, as in the paper.
    Raises UserError for a rank below 1 and for a target that names no layer of this UNet.
    """
    from peft import LoraConfig

    if rank < 1:
        raise UserError(f"expert.rank: {rank}; allowed: 1 or more")
    names = [name for name, _ in unet.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith("." + target) for name in names):
            raise UserError(
                f"expert.targets: {target!r} is not a layer of this UNet; e.g. to_q, to_k, to_v, to_out.0"
            )
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights="gaussian")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(config)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # an update of lr 1e-4 is lost in half precision


def lora_parameters(unet: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The adapter's trainable parameters by name, in the model's order."""
    return {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}


def lora_state(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The adapter on the CPU: "<module>.lora_A.weight" [rank, in] and "<module>.lora_B.weight" [out, rank]."""
    from peft.utils import get_peft_model_state_dict

    return {key: value.detach().cpu().contiguous() for key, value in get_peft_model_state_dict(unet).items()}
