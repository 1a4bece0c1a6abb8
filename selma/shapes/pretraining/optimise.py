"""One optimisation loop for all parts of the backbone: AdamW, warm-up, late cosine decay, EMA, exact resume.

Every step draws its randomness from a seed of its own, so a run that was killed and started again continues
as if nothing had happened; its state is kept in safetensors files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

_SAVE_EVERY_SECONDS = 60


def optimise(
    modules: dict[str, nn.Module],
    loss: Callable[[torch.Generator, int], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    folder: Path,
    decay_from: float = 0.4,
    ema: float = 0.998,
    weight_decay: float = 1e-2,
    log: Callable[[int, float], None] = lambda step, value: None,
) -> None:
    """Minimise `loss(generator, step)` over the modules' parameters; at the end the modules hold their EMA.

    folder: where the state is kept, as <folder>/state.safetensors; a finished run leaves it there and calling
    again returns at once. decay_from: the share of steps after which the learning rate starts to fall.
    log: called with (step, mean loss) every 100 steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names, parameters = _parameters(modules.items())
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    average = [p.detach().clone() for p in parameters]
    running = torch.zeros(())  # sum of the losses since the last hundred
    start = _restore(folder / "state.safetensors", names, parameters, average, optimizer, running)
    saved = time.monotonic()
    for step in tqdm(range(start, steps), desc=folder.name, total=steps, initial=start, mininterval=10):
        generator = torch.Generator().manual_seed((seed << 32) + step)
        torch.manual_seed((seed << 32) + step)  # for draws inside diffusers (the posterior's sample)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _schedule(step, steps, decay_from)
        value = loss(generator, step)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        running += value.detach()
        if (step + 1) % 100 == 0:
            log(step + 1, running.item() / 100)
            running.zero_()
        if time.monotonic() - saved > _SAVE_EVERY_SECONDS or step + 1 == steps:
            _save(folder / "state.safetensors", step + 1, names, parameters, average, optimizer, running)
            saved = time.monotonic()
    with torch.no_grad():
        for parameter, mean in zip(parameters, average, strict=True):
            parameter.copy_(mean)


def _schedule(step: int, steps: int, decay_from: float) -> float:
    done = step / steps
    late = (done - decay_from) / (1 - decay_from) if done > decay_from else 0.0
    return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * late)))


def _parameters(modules: Iterable[tuple[str, nn.Module]]) -> tuple[list[str], list[nn.Parameter]]:
    named = [
        (f"{m}.{n}", p) for m, module in modules for n, p in module.named_parameters() if p.requires_grad
    ]
    return [name for name, _ in named], [p for _, p in named]


def _save(
    path: Path, step: int, names: list[str], parameters: list, average: list, optimizer, running
) -> None:
    tensors = {"step": torch.tensor(step), "running": running}
    for name, parameter, mean in zip(names, parameters, average, strict=True):
        state = optimizer.state[parameter]
        tensors |= {f"p.{name}": parameter.detach(), f"ema.{name}": mean}
        tensors |= {f"m.{name}": state["exp_avg"], f"v.{name}": state["exp_avg_sq"]}
    partial = path.with_suffix(".partial")
    save_file({k: t.contiguous() for k, t in tensors.items()}, partial)
    partial.replace(path)


def _restore(path: Path, names: list[str], parameters: list, average: list, optimizer, running) -> int:
    if not path.exists():
        return 0
    tensors = load_file(path)
    step = int(tensors["step"])
    running.copy_(tensors["running"])
    with torch.no_grad():
        for name, parameter, mean in zip(names, parameters, average, strict=True):
            parameter.copy_(tensors[f"p.{name}"])
            mean.copy_(tensors[f"ema.{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"m.{name}"].clone(),
                "exp_avg_sq": tensors[f"v.{name}"].clone(),
            }
    return step
