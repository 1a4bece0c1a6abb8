"""An exponential moving average of the adapter (Polyak and Juditsky 1992), which checkpoints then hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

KEY = "average/"  # of the average's tensors in the training's state


class Average:
    """The average of some parameters over steps; with a decay of 0 there is none, and nothing is kept.

    As in diffusers' EMAModel, the decay of step t (from 0) is min(decay, (1 + t) / (10 + t)), and 0 at first: what an
    adapter starts from, where B is zero, is soon forgotten. The factors are averaged, not their product.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self._values = {name: each.detach().clone() for name, each in parameters.items()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters that step `step` (from 0) has made."""
        decay = min(self._decay, (1 + step) / (10 + step)) if step else 0.0
        for name, value in self._values.items():
            value.lerp_(self._parameters[name], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The average in the place of the parameters, in the body."""
        own = {name: self._parameters[name].detach().clone() for name in self._values}
        self._put(self._values)
        try:
            yield
        finally:
            self._put(own)

    def state(self) -> dict[str, torch.Tensor]:
        """What has to be kept for a later run, on the CPU."""
        return {KEY + name: value.cpu().contiguous() for name, value in self._values.items()}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take what `state` gave out of a run's tensors."""
        for name, value in self._values.items():
            value.copy_(tensors.pop(KEY + name))

    @torch.no_grad()
    def _put(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self._parameters[name].copy_(value)
