"""One batch of images, from noise to pictures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

import torch

from selma.backbones import conditioning
from selma.backbones.ahead import Stopped
from selma.backbones.latents import to_vae
from selma.images.memory import TextMemory

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    from selma.backbones.conditioning import Conditioning
    from selma.backbones.loading import Pipeline
    from selma.images.guide import Guide

# Decoding takes most of the memory: eight 512 px images at a time, or 512 of 64 px. On a CPU what counts is the cache:
# eight of 64 px.
DECODE_PIXELS, DECODE_PIXELS_CPU = 8 * 512 * 512, 8 * 64 * 64


@torch.inference_mode()
def denoise(
    pipe: Pipeline,
    scheduler: SchedulerMixin,
    texts: Mapping[str, Conditioning],
    generators: list[torch.Generator],
    shape: tuple[int, int, int],
    guidance: float,
    guide: Guide,
    rows: Sequence[int],
    *,
    memory: TextMemory,
    stop: Event,
    advance: Callable[[float], None],
) -> torch.Tensor:
    """Denoise and decode one batch, from its conditionings by branch of the guidance and one CPU generator per image.

    `scheduler` has its timesteps set, on the CPU: reading one from a GPU would wait for it. `shape` is (channels,
    height, width) of the latents. `rows` are the texts' indices in those that `guide` was made for.
    `advance` is called after every step with its share of the steps.
    Pixels [n, 3, height, width], fp32, in about -1..1; not finite where the latents were not.
    Raises Stopped once `stop` is set.
    """
    device, dtype = pipe.device, pipe.unet.dtype
    branches = guide.branches(guidance)
    condition = conditioning.concatenate([texts[branch] for branch in branches]).to(device, dtype)
    pixels = (shape[1] * pipe.vae_scale_factor, shape[2] * pipe.vae_scale_factor)
    ids = torch.tensor([conditioning.time_ids(pixels, (0, 0), pixels)], device=device).float()
    inputs = condition.unet_inputs(ids.expand(len(condition.states), -1))
    # fp32 on the CPU: the same noise on every machine; latents stay fp32 through the scheduler's arithmetic
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    latents = noise.to(device) * scheduler.init_noise_sigma
    extra = _step_options(scheduler, generators)
    values = guide.values(rows)
    if values is not None:
        own = {branch: texts[branch].states for branch in branches} | {"text": values}
        values = torch.cat([own[branch] for branch in branches]).to(device, dtype)
    with memory.of(condition.states, values), _looking(pipe, guide, texts["text"], ids, memory) as look:
        for i, t in enumerate(scheduler.timesteps):
            if stop.is_set():
                raise Stopped
            scaled = scheduler.scale_model_input(latents, t)
            if look is not None:
                shift = guide.shift(rows, scaled, i / len(scheduler.timesteps), partial(look, t))
                if shift is not None:  # of what the UNet reads; the sampler's own latents may be larger
                    latents = latents + shift / scheduler.scale_model_input(torch.ones((), device=device), t)
                    scaled = scheduler.scale_model_input(latents, t)
            scaled = scaled.to(dtype)
            predicted = pipe.unet(torch.cat([scaled] * len(branches)), t, **inputs, return_dict=False)[0]
            prediction = guide.combine(predicted.float().chunk(len(branches)), guidance)
            latents = scheduler.step(prediction, t, latents, return_dict=False, **extra)[0]
            advance(1 / len(scheduler.timesteps))
    return decode(pipe, latents)


@contextmanager
def _looking(
    pipe: Pipeline, guide: Guide, texts: Conditioning, ids: torch.Tensor, memory: TextMemory
) -> Iterator[Callable | None]:
    """From a timestep, latents of some of a batch's images, and which images they are, to their texts' attention maps;
    None if the method of guidance looks at none.

    The keys of the same images' texts are kept for all steps.
    """
    if guide.watcher is None:
        yield None
        return
    with ExitStack() as stack:
        inputs: dict[tuple[int, ...], dict] = {}

        def look(t: torch.Tensor, latents: torch.Tensor, which: Sequence[int]) -> torch.Tensor:
            key = tuple(which)
            if key not in inputs:
                own = texts[list(which)].to(pipe.device, pipe.unet.dtype)
                stack.enter_context(memory.of(own.states))
                inputs[key] = own.unet_inputs(ids.clone().expand(len(key), -1))
            return guide.watcher.look(latents, t, inputs[key])

        yield look


def _step_options(scheduler: SchedulerMixin, generators: list[torch.Generator]) -> dict:
    """Per-image generators where the scheduler takes them: ancestral ones draw noise at every step.

    The generators continue where the initial noise stopped, as in diffusers' own pipelines; schedulers that are
    deterministic (DDIM at its eta of 0) accept them and draw nothing from them.
    """
    takes = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": generators} if takes else {}


@torch.no_grad()
def decode(pipe: Pipeline, latents: torch.Tensor) -> torch.Tensor:
    """Latents [n, channels, h, w] to pixels [n, 3, height, width], fp32, a few at a time to bound memory.

    Latents that are not finite stay so: a VAE's norms could hide them.
    """
    factor = pipe.vae_scale_factor
    pixels = latents.shape[2] * latents.shape[3] * factor**2
    size = max(1, (DECODE_PIXELS_CPU if latents.device.type == "cpu" else DECODE_PIXELS) // pixels)
    latents = to_vae(pipe, latents).to(pipe.vae.dtype)
    decoded = [pipe.vae.decode(part, return_dict=False)[0].float() for part in latents.split(size)]
    broken = ~latents.isfinite().flatten(1).all(dim=1)
    return torch.cat(decoded).masked_fill(broken[:, None, None, None], torch.nan)
