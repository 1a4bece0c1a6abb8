"""Train a LoRA on image-caption pairs; a killed run resumes and ends with the same bytes.

Every random draw of a step comes from a generator seeded by (seed, step), and the order of the data from
(seed, epoch), so there is no random state to save. The objective
(selma/variants/objectives) defines what a step computes, examples.py what it trains on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from selma.experts.average import Average
from selma.experts.examples import Examples
from selma.experts.gradients import gradients
from selma.experts.schedule import learning_rate
from selma.ground.errors import UserError
from selma.ground.files import atomic
from selma.lora.adapter import lora_parameters, lora_state
from selma.lora.files import save_lora
from selma.runtime.devices import check_memory, enough_memory, torch_dtype

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

    from selma.experts.codes import Codes
    from selma.runtime.params import Training

Save = Callable[[Path, dict, torch.dtype], None]  # to a checkpoint's folder, with what it says of itself


def train(
    objective: ModuleType,
    unet: torch.nn.Module,
    schedule: DDPMScheduler | None,
    examples: Examples | Codes,
    settings: Training,
    *,
    seed: int,
    folder: Path,
    state: Path,
    provenance: dict,
    options: Mapping[str, Any] | None = None,
    save: Save | None = None,
    on_loss: Callable[[int, float], None] = lambda step, loss: None,
    on_checkpoint: Callable[[int], None] = lambda step: None,
    progress: Callable[[range], Iterable[int]] = iter,
    state_seconds: float = 30.0,
) -> list[tuple[int, float]]:
    """Train what `add_lora` put on the UNet, or what else of it learns, and return the curve [(step, loss)].

    `unet` may be WithTexts, which trains text encoders, too (selma/lora/text.py), or a Writer of image tokens, which
    needs no `schedule` of noise (codes.py). `options` are the objective's own
    settings; `save` writes a checkpoint of what is trained, if that is more or else than the UNet's LoRA.
    Writes folder/step-000100/ and so on, every `checkpoint_every` steps and at the end, each a LoRA folder
    whose lora.json is `provenance` plus its steps; with `ema` the moving average is what they hold. Parameters, their
    average and the optimizer are saved in the file `state` at every checkpoint and every `state_seconds` (less often
    where writing them takes long); a run that finds it resumes from there. The losses of the curve are means over
    windows of a hundredth of the steps; `on_loss` gets each as it comes, and `on_checkpoint` a
    checkpoint's step, when all of it is saved and the UNet holds it.
    Raises UserError for a base model in float16 (its gradients underflow), for a batch beyond the memory, and for a
    loss, a gradient or weights that are not finite.
    """
    check_precision(unet)
    # Latents, noise, their sum and the target of a batch; what the UNet needs comes on top.
    size = 16 * settings.batch * examples.numbers
    check_memory(size, examples.device, f"expert.batch: {settings.batch}")
    for half_written in folder.rglob(".tmp-*"):
        half_written.unlink()
    parameters = lora_parameters(unet)
    device = next(iter(parameters.values())).device
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    losses = torch.zeros(settings.steps, device=device)  # stays on the device: reading a loss waits for it
    average = Average(parameters, settings.ema)
    first = _load_state(state, parameters, optimizer, losses, average)
    window = max(1, settings.steps // 100)
    saved_at, pause = time.monotonic(), state_seconds
    with gradients(
        partial(objective.batch_loss, unet, **(options or {})),
        list(parameters.values()),
        batch=settings.batch,
        accumulate=settings.accumulate,
        pixels=examples.pixels,
    ) as found:
        for step in progress(range(first, settings.steps)):
            with enough_memory("raise expert.accumulate, or set expert.gradient_checkpointing"):
                batch = objective.draw_batch(schedule, examples, settings, seed, step)
                losses[step] = found.of(batch)
            length = torch.nn.utils.clip_grad_norm_(list(parameters.values()), settings.max_grad_norm)
            losses[step] += torch.where(length.isfinite(), 0.0, torch.nan)  # found where the losses are read
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            optimizer.step()
            optimizer.zero_grad()
            average.update(step)
            count = step + 1
            if count % window == 0 or count == settings.steps:
                on_loss(count, _mean(losses, count, window))
            at_checkpoint = count % settings.checkpoint_every == 0 or count == settings.steps
            if at_checkpoint:
                _mean(losses, count, window)
                at, dtype = folder / f"step-{count:06d}", torch_dtype(settings.save_dtype)
                with average.applied():
                    (save or partial(save_adapter, unet))(at, {**provenance, "steps": count}, dtype)
            if at_checkpoint or time.monotonic() - saved_at > pause:
                began = time.monotonic()
                _save_state(state, parameters, optimizer, losses, count, average)
                saved_at = time.monotonic()
                # SDXL's state at rank 128 is 2.2 GB: saving stays a small share of the time, however slow the disk
                pause = state_seconds * max(1.0, saved_at - began)
            if at_checkpoint:
                with average.applied():
                    on_checkpoint(count)
    ends = sorted({*range(window, settings.steps + 1, window), settings.steps})
    return [(count, _mean(losses, count, window)) for count in ends]


def check_precision(unet: torch.nn.Module) -> None:
    """Raise UserError for a base model in float16."""
    if unet.dtype == torch.float16:
        raise UserError("runtime.dtype: float16 gradients underflow in training; allowed: float32, bfloat16")


def _mean(losses: torch.Tensor, count: int, window: int) -> float:
    """Mean loss of the window that ends after `count` steps, to 6 places."""
    start = (count - 1) // window * window
    value = round(losses[start:count].mean().item(), 6)
    if not np.isfinite(value):
        raise UserError(
            f"training diverged: the loss or the gradient is not finite at step {count}; lower expert.learning_rate"
        )
    return value


def save_adapter(unet: torch.nn.Module, folder: Path, provenance: dict, dtype: torch.dtype) -> None:
    """Write the UNet's adapter as a LoRA folder, as `save_lora` does."""
    save_lora(folder, lora_state(unet), provenance, dtype)


def _save_state(
    file: Path,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses: torch.Tensor,
    count: int,
    average: Average,
) -> None:
    """Write everything a later run needs to resume after `count` steps, in one atomic safetensors file."""
    from safetensors.torch import save_file

    tensors = {"losses": losses.cpu(), "count": torch.tensor(count), **average.state()}
    for name, parameter in parameters.items():
        tensors[f"parameter/{name}"] = parameter.detach().cpu().contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value.cpu().contiguous()
    with atomic(file) as temporary:
        save_file(tensors, temporary)


def _load_state(
    file: Path,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses: torch.Tensor,
    average: Average,
) -> int:
    """Restore a saved state and return the number of steps it had done; 0 if there is no state."""
    from safetensors.torch import load_file

    if not file.is_file():
        return 0
    tensors = load_file(file)
    average.restore(tensors)
    losses.copy_(tensors.pop("losses"))
    count = int(tensors.pop("count"))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors.pop(f"parameter/{name}"))
            # AdamW's own names (step, exp_avg, exp_avg_sq); the fused one wants all of them on the device
            keys = [key for key in tensors if key.partition("/")[2] == name]
            optimizer.state[parameter] = {
                key.partition("/")[0]: tensors[key].to(parameter.device) for key in keys
            }
    return count
