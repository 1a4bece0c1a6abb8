"""SOLACE: a reward without a judge, the model's own confidence in a picture that it drew.

Noise is added to the picture's latents, and the model says what noise; the better it does for the prompt, the higher
the reward. As an average over time steps t and noises e:  r = -E mse(prediction(x_t, text), target).
"""

from __future__ import annotations

import torch

from selma.backbones.conditioning import Conditioning
from selma.policies.diffusion import Denoiser, Diffusion

TIMES = (0.2, 0.4, 0.6, 0.8)  # of the noise schedule: where the target is neither given nor hopeless


@torch.no_grad()
def solace(
    denoiser: Denoiser,
    diffusion: Diffusion,
    clean: torch.Tensor,
    condition: Conditioning,
    generator: torch.Generator,
) -> torch.Tensor:
    """The reward [n], at most 0, of latents [n, c, h, w] for their texts; all see the same noise, so that what differs
    is the picture."""
    found = []
    for share in TIMES:
        noise = torch.randn(clean.shape[1:], generator=generator).to(clean.device).expand_as(clean)
        last = len(diffusion.alphas_cumprod) - 1
        times = torch.full((len(clean),), round(share * last), device=clean.device)
        prediction = denoiser(diffusion.noisy(clean, noise, times), times, condition)
        found.append(((prediction - diffusion.target(clean, noise, times)) ** 2).flatten(1).mean(dim=1))
    return -torch.stack(found).mean(dim=0)
