"""What one update of a policy looks at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import torch

from selma.backbones.conditioning import Conditioning
from selma.policies.diffusion import Diffusion
from selma.policies.transitions import Transitions


@dataclass(frozen=True)
class Batch:
    """n examples: noisy pictures of the policy's own, or steps of its rollouts.

    noisy       [n, c, h, w] latents x_t, fp32, that the UNet predicts from
    times       [n] time steps
    texts       n conditionings
    advantage   [n] of the picture that each belongs to
    clean, noise    x_0 and e that x_t is made of; None for steps of rollouts
    index, after    the step's number [n], and the latents that the rollout drew after it; None for noisy pictures
    others      predictions [n, c, h, w] of the adapters that an algorithm NEEDS: old, start, average
    """

    diffusion: Diffusion
    transitions: Transitions
    noisy: torch.Tensor
    times: torch.Tensor
    texts: Conditioning
    advantage: torch.Tensor
    clean: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    index: torch.Tensor | None = None
    after: torch.Tensor | None = None
    others: Mapping[str, torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.times)

    @property
    def target(self) -> torch.Tensor:
        """What the UNet should predict, had it drawn this picture from this noise."""
        return self.diffusion.target(self.clean, self.noise, self.times)

    def split(self, parts: int) -> Iterator[Batch]:
        """The batch in at most `parts` parts of equal size, the last one perhaps smaller."""
        size = -(-len(self) // parts)
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            own = {
                field.name: value[rows]
                for field in fields(self)
                if isinstance(value := getattr(self, field.name), torch.Tensor | Conditioning)
            }
            others = self.others and {name: prediction[rows] for name, prediction in self.others.items()}
            yield replace(self, **own, others=others)


def mse(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean squared difference [n] over all latent dimensions of each example."""
    return ((first - second) ** 2).flatten(1).mean(dim=1)
