"""From x_t to the step before it: DDIM with noise, as a Gaussian whose density policy gradients need.

    x_p ~ N(mean, std^2),   mean = alpha_p x_0 + sqrt(sigma_p^2 - std^2) e

for any 0 <= std <= sigma_p the marginals are those of the noise-free sampler (DDIM, arXiv 2010.02502, equation 12 and
its lemma 1). `ddim`: std is eta times DDPM's own (equation 16). `cps`: std = sigma_p sin(eta pi / 2), the
coefficient-preserving sampler of Flow-GRPO (arXiv 2509.05952), which is the same Gaussian with another std.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from selma.policies.diffusion import Diffusion

FORMS = ("ddim", "cps")


@dataclass(frozen=True)
class Transitions:
    """The steps of a rollout: from the time steps `times` [steps], falling, to those `after` them, -1 for behind the
    last (selma/policies/diffusion.py). Diffusers' DDIM does not always end a step where the next one begins."""

    diffusion: Diffusion
    times: torch.Tensor
    after: torch.Tensor
    form: str = "ddim"
    eta: float = 1.0

    @property
    def steps(self) -> int:
        return len(self.times)

    def std(self, index: torch.Tensor) -> torch.Tensor:
        """Standard deviation [n, 1, 1, 1] of step `index` [n], counted from 0."""
        alpha_t, sigma_t = self.diffusion.scales(self.times[index])
        alpha_p, sigma_p = self.diffusion.scales(self.after[index])
        if self.form == "cps":
            return sigma_p * math.sin(self.eta * math.pi / 2)
        ratio = (alpha_t / alpha_p) ** 2
        return self.eta * sigma_p / sigma_t * (1 - ratio).clamp(min=0).sqrt()

    def mean(
        self, prediction: torch.Tensor, noisy: torch.Tensor, index: torch.Tensor, noise_free: bool = False
    ) -> torch.Tensor:
        """Mean [n, c, h, w] of the latents after step `index`, from the prediction at x_t = `noisy`.

        `noise_free`: of the step without noise (std 0), DDIM's own.
        """
        times = self.times[index]
        clean = self.diffusion.clean(prediction, noisy, times)
        noise = self.diffusion.noise(prediction, noisy, times)
        alpha_p, sigma_p = self.diffusion.scales(self.after[index])
        std = torch.zeros_like(sigma_p) if noise_free else self.std(index)
        return alpha_p * clean + (sigma_p**2 - std**2).clamp(min=0).sqrt() * noise

    def log_density(self, after: torch.Tensor, mean: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Log density [n] of the latents `after` step `index`, a MEAN over their dimensions, as DDPO's code has it.

        The sum of a 64 x 64 x 4 latent's would make every ratio 0 or infinite; clip ranges of 1e-4 are for means.
        """
        std = self.std(index)
        density = -((after - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
        return density.flatten(1).mean(dim=1)
