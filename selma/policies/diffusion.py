"""A UNet's predictions and the diffusion that they are of: x_t = alpha_t x_0 + sigma_t e, alpha^2 + sigma^2 = 1.

A prediction is of noise e or of velocity v = alpha e - sigma x_0 (arXiv 2202.00512, appendix D), as the backbone's
scheduler says; both are linear in x_0 and e.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from selma.backbones.conditioning import Conditioning, concatenate

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

# Below this share of signal, dividing by it would turn rounding into pictures; zero terminal SNR has none at all.
LEAST_ALPHA = 1e-3


@dataclass(frozen=True)
class Diffusion:
    """What the UNet predicts (`kind`: epsilon or v_prediction) and the noise of its time steps.

    alphas_cumprod  [T] fp32, alpha_t squared of every time step
    last            what DDIM takes for alpha squared behind the last step: 1, or that of time step 0
    """

    kind: str
    alphas_cumprod: torch.Tensor
    last: float

    @classmethod
    def of(cls, schedule: DDPMScheduler, device: torch.device) -> Diffusion:
        """Of a backbone's noise schedule (selma/backbones/schedulers.py), on a device."""
        config = schedule.config
        cumprod = schedule.alphas_cumprod.float()
        last = 1.0 if getattr(config, "set_alpha_to_one", True) else float(cumprod[0])
        return cls(config.prediction_type, cumprod.to(device), last)

    def scales(self, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha and sigma [n, 1, 1, 1] of time steps [n]; -1 is behind the last step."""
        squared = torch.where(times < 0, self.last, self.alphas_cumprod[times.clamp(min=0)])
        squared = squared[:, None, None, None]
        return squared.sqrt(), (1 - squared).sqrt()

    def noisy(self, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """x_t [n, c, h, w] of clean latents and noise of that shape, at time steps [n]."""
        alpha, sigma = self.scales(times)
        return alpha * clean + sigma * noise

    def target(self, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """What the UNet should predict of `noisy(clean, noise, times)`."""
        if self.kind == "epsilon":
            return noise
        alpha, sigma = self.scales(times)
        return alpha * noise - sigma * clean

    def clean(self, prediction: torch.Tensor, noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """x_0 that a prediction at x_t stands for."""
        alpha, sigma = self.scales(times)
        if self.kind == "epsilon":
            return (noisy - sigma * prediction) / alpha.clamp(min=LEAST_ALPHA)
        return alpha * noisy - sigma * prediction

    def noise(self, prediction: torch.Tensor, noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """e that a prediction at x_t stands for."""
        if self.kind == "epsilon":
            return prediction
        alpha, sigma = self.scales(times)
        return alpha * prediction + sigma * noisy


@dataclass(frozen=True)
class Denoiser:
    """A UNet with classifier-free guidance at a `scale`; at 1 or less one pass, the text's alone.

    empty   the conditioning of the empty text [1, ...], for scales above 1
    ids     SDXL's time ids of the pictures that are drawn [1, 6]
    """

    unet: torch.nn.Module
    empty: Conditioning
    ids: torch.Tensor
    scale: float = 1.0

    def condition(self, texts: Conditioning) -> Conditioning:
        """The texts as `__call__` takes them: in the UNet's dtype, and behind empty ones where guidance needs both."""
        if self.scale > 1:
            texts = concatenate([self.empty[[0] * len(texts.states)], texts])
        return texts.to(self.unet.dtype)

    def __call__(self, noisy: torch.Tensor, times: torch.Tensor, condition: Conditioning) -> torch.Tensor:
        """The prediction [n, c, h, w] in fp32 at latents of that shape, time steps [n] and n texts' condition."""
        both = self.scale > 1
        if both:
            noisy, times = torch.cat([noisy, noisy]), torch.cat([times, times])
        inputs = condition.unet_inputs(self.ids.expand(len(noisy), -1))
        found = self.unet(noisy.to(self.unet.dtype), times, **inputs, return_dict=False)[0].float()
        if not both:
            return found
        empty, own = found.chunk(2)
        return empty + self.scale * (own - empty)
