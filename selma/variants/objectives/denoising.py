"""The denoising objective of latent diffusion (Rombach et al., arXiv 2112.10752, equation 2), SELMA's own.

Mean squared error between what the UNet predicts for a noisy image-text pair and the noise in it (or v, if the
backbone predicts v: Salimans and Ho, arXiv 2202.00512). With `min_snr`, time steps weigh by their signal-to-noise
ratio (Hang et al., ICCV 2023, arXiv 2303.09556, section 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from selma.experts.draws import batch_indices, generator
from selma.ground.errors import UserError

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

    from selma.backbones.conditioning import Conditioning
    from selma.experts.examples import Examples
    from selma.runtime.params import Training

READS = ("min_snr",)  # of the settings that not every objective knows


@dataclass(frozen=True)
class Batch:
    """What one step trains on: noisy latents [n, channels, h, w], times [n], conditioning, and the target.

    `weights` [n] are those of the examples' losses; None weighs all alike.
    """

    noisy: torch.Tensor
    times: torch.Tensor
    texts: Conditioning
    time_ids: torch.Tensor
    target: torch.Tensor
    weights: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.times)

    def split(self, parts: int) -> Iterator[Batch]:
        """The batch in at most `parts` parts of equal size, the last one perhaps smaller."""
        size = -(-len(self) // parts)
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield Batch(
                self.noisy[rows],
                self.times[rows],
                self.texts[rows],
                self.time_ids[rows],
                self.target[rows],
                None if self.weights is None else self.weights[rows],
            )


def draw_batch(
    schedule: DDPMScheduler, examples: Examples, settings: Training, seed: int, step: int
) -> Batch:
    """The batch of step `step` (from 0), on the examples' device; every draw is seeded by (seed, step)."""
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
        target=_target(schedule, latents, noise, times),
        weights=None if settings.min_snr is None else min_snr_weights(schedule, times, settings.min_snr),
    )


def batch_loss(unet: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The denoising loss: mean squared error, in fp32, of what the backbone predicts (noise or v), weighed by step."""
    inputs = batch.texts.to(unet.dtype).unet_inputs(batch.time_ids)
    prediction = unet(batch.noisy.to(unet.dtype), batch.times, **inputs, return_dict=False)[0]
    if batch.weights is None:
        return functional.mse_loss(prediction.float(), batch.target)
    errors = functional.mse_loss(prediction.float(), batch.target, reduction="none").flatten(1).mean(dim=1)
    return (batch.weights * errors).mean()


def min_snr_weights(schedule: DDPMScheduler, times: torch.Tensor, gamma: float) -> torch.Tensor:
    """The weights [n] of time steps [n] in the loss of what the backbone predicts, at most 1: Min-SNR-gamma.

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


def _target(
    schedule: DDPMScheduler, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """What the UNet should predict."""
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return schedule.get_velocity(latents, noise, times)
    raise UserError(f"scheduler config: prediction_type {kind!r}; allowed: epsilon, v_prediction")
