"""A VAE's latents and the UNet's: between them lies the scaling that the VAE's config states, as in SDXL's pipeline.

    the UNet's = (the VAE's - latents_mean) * scaling_factor / latents_std

Most VAEs state a factor alone (arXiv 2112.10752, section 4.3.2 of the appendix: unit variance), some a mean and a
deviation per channel as well (Playground v2.5, arXiv 2402.17245).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from selma.backbones.loading import Pipeline


def from_vae(pipe: Pipeline, mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the VAE's latents, fp32 [n, channels, h, w] each, as those of the UNet's."""
    factor, (shift, spread) = pipe.vae.config.scaling_factor, _statistics(pipe, mean)
    if shift is None:
        return mean * factor, std * factor
    return (mean - shift) * factor / spread, std * factor / spread


def to_vae(pipe: Pipeline, latents: torch.Tensor) -> torch.Tensor:
    """The UNet's latents, fp32 [n, channels, h, w], as the VAE decodes them."""
    factor, (shift, spread) = pipe.vae.config.scaling_factor, _statistics(pipe, latents)
    if shift is None:
        return latents / factor
    return latents * spread / factor + shift


def check_scaling(config: Mapping[str, object], channels: int, statistics: bool) -> None:
    """Raise ValueError for a VAE's config that states a scaling other than above, or one that `statistics` (whether
    the kind of pipeline applies latents_mean and latents_std) forbids: its pipeline itself would draw it wrongly."""
    factor = config.get("scaling_factor")
    if not _numbers([factor]) or not factor > 0:
        raise ValueError(f"vae/config.json: scaling_factor is {factor!r}; it must be a number above 0")
    if config.get("shift_factor"):
        raise ValueError(
            f"vae/config.json: shift_factor is {config['shift_factor']!r}; no Stable Diffusion pipeline applies it, "
            "so it must be null"
        )
    given = [config.get(key) for key in ("latents_mean", "latents_std")]
    if given == [None, None]:
        return
    for values in given:
        if not isinstance(values, list | tuple) or len(values) != channels or not _numbers(values):
            raise ValueError(
                f"vae/config.json: latents_mean and latents_std must both be null or lists of {channels} numbers"
            )
    if not all(value > 0 for value in given[1]):
        raise ValueError("vae/config.json: latents_std must be above 0")
    if not statistics:
        raise ValueError("vae/config.json: has latents_mean, which StableDiffusionPipeline does not apply")


def _statistics(pipe: Pipeline, like: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The VAE's mean and deviation per channel, [1, channels, 1, 1]; None where it states none."""
    config = pipe.vae.config
    if config.get("latents_mean") is None:
        return None, None
    shift, spread = (
        torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)
        for values in (config["latents_mean"], config["latents_std"])
    )
    return shift, spread


def _numbers(values: list | tuple) -> bool:
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        for value in values
    )
