"""Distil experts into one LoRA: on each expert's own images and captions a student learns to predict what it predicts.

    loss = mse(student(x_t, t, c), expert_k(x_t, t, c)),   (x_0, c) of expert k's skill

After DMM's distillation of several models into one (arXiv 2504.12364), without its style prompts: the caption says
which skill is asked for. What the student learns is an ordinary LoRA of section `expert`'s rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from selma.backbones.bank import add_bank, weighted
from selma.experts import noisy
from selma.experts.draws import batch_indices
from selma.experts.loop import Save, save_adapter
from selma.lora.adapter import add_lora, without_adapter
from selma.lora.files import LoraWeights
from selma.lora.mixing import stacked
from selma.runtime.params import Training

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

    from selma.experts.examples import Examples

MIXES = True


@dataclass(frozen=True)
class Taught(noisy.Batch):
    """Noisy latents and, for each, the experts' weights [n, K]: 1 for the one that teaches."""

    teacher: torch.Tensor


def prepare(unet: torch.nn.Module, experts: Mapping[str, LoraWeights], settings: Training, seed: int) -> Save:
    """Put the experts and a fresh student on the UNet, and return what writes a checkpoint of the student."""
    loras = list(experts.values())
    factors = stacked(experts, unet.dtype)
    add_bank(unet, factors, [lora.rank for lora in loras], [lora.scaling for lora in loras])
    add_lora(unet, settings.rank, settings.lora_alpha, list(settings.targets), seed)
    card = {"rank": settings.rank, "alpha": settings.lora_alpha, "targets": list(settings.targets)}

    def save(folder: Path, provenance: dict, dtype: torch.dtype) -> None:
        save_adapter(unet, folder, {**provenance, "experts": list(experts), **card}, dtype)

    return save


def draw_batch(
    schedule: DDPMScheduler, examples: Examples, settings: Training, seed: int, step: int
) -> Taught:
    """The batch of step `step` (from 0), as denoising draws it, and who teaches each example."""
    drawn = noisy.draw_batch(schedule, examples, settings, seed, step)
    rows = batch_indices(len(examples.mean), settings.batch, seed, step)
    return Taught(**vars(drawn), teacher=examples.teacher[rows.to(examples.teacher.device)])


def batch_loss(unet: torch.nn.Module, batch: Taught) -> torch.Tensor:
    """Mean squared error between the student's prediction and the teacher's."""
    with torch.no_grad(), without_adapter(), weighted(batch.teacher):
        taught = noisy.predict(unet, batch)
    return functional.mse_loss(noisy.predict(unet, batch), taught)
