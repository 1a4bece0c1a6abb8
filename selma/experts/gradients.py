"""The gradient of a batch, in parts: one after the other to save memory, or side by side to use every core.

Parts weigh by their size, so the gradient is the whole batch's. What they are and the order in which they are added do
not depend on the number of cores; how many of PyTorch's own threads share a part does, and rounds otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import torch

from selma.backbones.ahead import plan, pool_of

# Latents' pixels of one part on a CPU: 16 images of 8 x 8. Smaller parts spend their time in Python.
PART_PIXELS = 16 * 8 * 8


class Batch(Protocol):
    """What a step trains on, of any objective."""

    def __len__(self) -> int: ...
    def split(self, parts: int) -> Iterator[Batch]: ...


class Gradients:
    """Losses and gradients of batches of one size; see `gradients`."""

    def __init__(
        self,
        loss: Callable[[Batch], torch.Tensor],
        parameters: list[torch.nn.Parameter],
        parts: int,
        pool: ThreadPoolExecutor | None,
    ) -> None:
        self._loss, self._parameters, self._parts, self._pool = loss, parameters, parts, pool

    def of(self, batch: Batch) -> torch.Tensor:
        """The batch's loss, a scalar on its device; its gradient is in the parameters' `grad`, which were None."""
        parts, losses = list(batch.split(self._parts)), []
        if self._pool is None:
            for part in parts:
                loss = self._weighted(part, len(batch))
                loss.backward()
                losses.append(loss.detach())
        else:
            for loss, gradient in self._pool.map(lambda part: self._apart(part, len(batch)), parts):
                losses.append(loss)
                self._add(gradient)
        return torch.stack(losses).sum()

    def each(self, compute: Callable[[Batch], torch.Tensor], batch: Batch) -> torch.Tensor:
        """`compute` of the batch's parts, [n, ...], without gradients; parts are those of `of`."""

        def part(one: Batch) -> torch.Tensor:
            with torch.no_grad():  # each thread has its own switch
                return compute(one)

        run = map if self._pool is None else self._pool.map
        return torch.cat(list(run(part, batch.split(self._parts))))

    def _weighted(self, part: Batch, whole: int) -> torch.Tensor:
        return self._loss(part) * (len(part) / whole)

    def _apart(self, part: Batch, whole: int) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
        """A part's loss and gradient, which is not added to `grad` yet: other parts are computed at the same time."""
        loss = self._weighted(part, whole)
        return loss.detach(), torch.autograd.grad(loss, self._parameters, allow_unused=True)

    def _add(self, gradient: tuple[torch.Tensor | None, ...]) -> None:
        for parameter, part in zip(self._parameters, gradient, strict=True):
            if part is not None:
                parameter.grad = part if parameter.grad is None else parameter.grad + part


@contextmanager
def gradients(
    loss: Callable[[Batch], torch.Tensor],
    parameters: list[torch.nn.Parameter],
    *,
    batch: int,
    accumulate: int,
    pixels: int,
) -> Iterator[Gradients]:
    """Gradients of `loss` over batches of `batch` examples of `pixels` latents' pixels each.

    At most a share of 1 / `accumulate` of a batch is in memory at once. On a CPU, parts of it are computed side by
    side.
    """
    device = parameters[0].device.type
    parts = plan(batch, math.ceil(batch / accumulate), PART_PIXELS // pixels, device)
    count = math.ceil(batch / parts.size)
    if parts.workers == 1:
        yield Gradients(loss, parameters, count, None)
        return
    with pool_of(parts.workers, parts.threads) as pool:
        yield Gradients(loss, parameters, count, pool)
