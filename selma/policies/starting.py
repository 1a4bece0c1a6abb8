"""What a policy begins with: an adapter, fresh on the backbone or an expert's, and what draws and teaches it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selma.backbones.loading import check_trained_on, fingerprint
from selma.backbones.schedulers import training_schedule
from selma.experts.loop import check_precision
from selma.ground.adapters import read_adapter
from selma.ground.backbones import is_backbone
from selma.ground.errors import UserError
from selma.lora.adapter import add_lora
from selma.lora.files import load_lora
from selma.policies.diffusion import Diffusion
from selma.policies.learner import Learner
from selma.policies.rollout import Sampler, noisy_steps
from selma.runtime import variants

if TYPE_CHECKING:
    from selma.backbones.loading import Pipeline
    from selma.ground.items import Item
    from selma.runtime.params import Policy, PolicyRow


def start(
    pipe: Pipeline, row: PolicyRow, key: str, items: Sequence[Item], backbone: Path, policy: Policy, seed: int
) -> tuple[Learner, dict[str, Any]]:
    """A policy before its first round, on a pipeline of the folder `backbone`, and what lora.json says of it.

    Raises UserError, opened by `key`, for settings that its algorithm does not take; for a LoRA of another backbone to
    start from, a base model in float16, and for what cannot be drawn.
    """
    algorithm = variants.load("algorithms", row.algorithm, f"{key}.algorithm")
    settings = variants.options("algorithms", row.algorithm, row.options, f"{key}.options")
    check_precision(pipe.unet)
    card = start_adapter(pipe.unet, Path(row.start), backbone, policy, seed)
    if policy.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    diffusion = Diffusion.of(training_schedule(pipe), pipe.device)
    texts = [item.prompt for item in items]
    sampler = Sampler(pipe, diffusion, texts, policy.drawing, noisy_steps(algorithm, settings))
    card |= {"algorithm": row.algorithm, "start": row.start, "data": row.prompts, "seed": seed}
    return Learner(sampler, algorithm, settings, policy, seed), card


def start_adapter(
    unet: torch.nn.Module, start: Path, backbone: Path, policy: Policy, seed: int
) -> dict[str, Any]:
    """Put a trainable adapter on the UNet, and return what lora.json says of it: backbone, rank, alpha, targets.

    `start` is the backbone's folder (a fresh adapter, as the `policy` section says, which changes nothing yet) or a
    LoRA's, which goes on with the rank, alpha and layers that it has. Raises UserError for a LoRA of another backbone.
    """
    card: dict[str, Any] = {"backbone": fingerprint(backbone)}
    if is_backbone(start):
        add_lora(unet, policy.rank, policy.alpha, list(policy.targets), seed, "policy")
        return card | {"rank": policy.rank, "alpha": policy.alpha, "targets": list(policy.targets)}
    found = read_adapter(start).card
    check_trained_on(start, found, backbone)
    if "text_targets" in found:
        raise UserError(
            f"{start}: this LoRA adapts the text encoders, too; a policy learns on the UNet alone"
        )
    add_lora(unet, found["rank"], found["alpha"], list(found["targets"]), seed)
    state = load_lora(start).state()
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(state[name.replace(".default.", ".")])
    return card | {key: found[key] for key in ("rank", "alpha", "targets")}
