"""Noisy latents that a step trains on, what the UNet should predict for them, and what it does predict.

x_t = alpha x_0 + sigma e. The target is the noise e, or v = alpha e - sigma x_0 where the backbone predicts v (Salimans
and Ho, arXiv 2202.00512).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Self

import torch
from torch.nn import functional

from selma.backbones.conditioning import Conditioning, TokenIds
from selma.experts.draws import batch_indices, generator
from selma.ground.errors import UserError

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

    from selma.experts.examples import Examples
    from selma.runtime.params import Training


class Parts:
    """A dataclass of n examples: tensors, texts and other such dataclasses, each of n rows."""

    def split(self, parts: int) -> Iterator[Self]:
        """The batch in at most `parts` parts of equal size, the last one perhaps smaller."""
        size = -(-len(self) // parts)
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def __getitem__(self, rows: slice) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self, **{name: None if value is None else value[rows] for name, value in values.items()}
        )


@dataclass(frozen=True)
class Batch(Parts):
    """What one step trains on: noisy latents [n, channels, h, w], times [n], conditioning, and the target.

    `weights` [n] are those of the examples' losses; None weighs all alike.
    """

    noisy: torch.Tensor
    times: torch.Tensor
    texts: Conditioning | TokenIds
    time_ids: torch.Tensor
    target: torch.Tensor
    weights: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.times)


def draw_batch(
    schedule: DDPMScheduler, examples: Examples, settings: Training, seed: int, step: int
) -> Batch:
    """The batch of step `step` (from 0), on the examples' device; every draw is seeded by (seed, step).

    Raises UserError for a backbone that predicts neither the noise nor v.
    """
    device, n = examples.mean.device, settings.batch
    rows = batch_indices(len(examples.mean), n, seed, step).to(device)
    # drawn on the CPU: the same numbers on every device
    random = generator(seed, "step", step)
    shape = (n, *examples.mean.shape[1:])
    sample, noise = (torch.randn(shape, generator=random).to(device) for _ in range(2))
    times = torch.randint(schedule.config.num_train_timesteps, (n,), generator=random).to(device)
    dropped = (torch.rand(n, generator=random) < settings.caption_dropout).to(device)
    mean, std = examples.mean[rows], examples.std[rows]
    if examples.mirror_mean is not None:
        # a generator of its own: with and without flips, everything else of a step is the same
        mirrored = torch.rand(n, generator=generator(seed, "flip", step)) < 0.5
        mirrored = mirrored.to(device)[:, None, None, None]
        mean = torch.where(mirrored, examples.mirror_mean[rows], mean)
        std = torch.where(mirrored, examples.mirror_std[rows], std)
    latents = mean + std * sample
    return Batch(
        noisy=schedule.add_noise(latents, noise, times),
        times=times,
        texts=examples.texts[examples.caption[rows].masked_fill(dropped, 0)],
        time_ids=examples.time_ids[rows],
        target=target(schedule, latents, noise, times),
        weights=None if settings.min_snr is None else min_snr_weights(schedule, times, settings.min_snr),
    )


def predict(unet: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """What the UNet predicts for the batch, the noise or v: [n, channels, h, w] in fp32, beside `batch.target`.

    Texts that are token ids need a model that encodes them, WithTexts in the UNet's place.
    """
    inputs = batch.texts.to(unet.dtype).unet_inputs(batch.time_ids)
    return unet(batch.noisy.to(unet.dtype), batch.times, **inputs, return_dict=False)[0].float()


def loss(unet: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The mean squared error of the prediction, a scalar in fp32, each example's by its weight."""
    found = predict(unet, batch)
    if batch.weights is None:
        return functional.mse_loss(found, batch.target)
    errors = functional.mse_loss(found, batch.target, reduction="none").flatten(1).mean(dim=1)
    return (batch.weights * errors).mean()


def min_snr_weights(schedule: DDPMScheduler, times: torch.Tensor, gamma: float) -> torch.Tensor:
    """The weights [n] of time steps [n] in the loss of what the backbone predicts, at most 1: Min-SNR-gamma (Hang et
    al., ICCV 2023, arXiv 2303.09556, section 3.4).

    min(snr, gamma) of an error in the image is min(snr, gamma) / snr of one in the noise and min(snr, gamma) /
    (snr + 1) of one in v; snr = a / (1 - a), a the cumulative product of the alphas. Written in a, without a division
    by an snr of zero: where the last step is pure noise its weight is 1 for the noise, and 0 for v, which is the image
    there.
    """
    a = schedule.alphas_cumprod.to(times.device)[times]
    in_v = torch.minimum(a, gamma * (1 - a))
    if schedule.config.prediction_type == "v_prediction":
        return in_v
    return torch.where(a > 0, in_v / a, 1.0)


def target(
    schedule: DDPMScheduler, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """What the UNet should predict, [n, channels, h, w]; raises UserError for another kind of backbone."""
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return schedule.get_velocity(latents, noise, times)
    raise UserError(f"scheduler config: prediction_type {kind!r}; allowed: epsilon, v_prediction")
