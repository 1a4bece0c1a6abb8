"""The learning rate of a step: a function of the step alone, so that a run that is resumed goes on with the same."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selma.runtime.params import Training


def learning_rate(settings: Training, step: int) -> float:
    """The learning rate of step `step`, from 0 on, as diffusers' get_scheduler has it.

    Over the first `warmup` steps it rises from 0 in a line. Then it is constant, or falls to 0 at the last step's end,
    in a line or as half a cosine (Loshchilov and Hutter, arXiv 1608.03983, equation 5, without restarts).
    """
    if step < settings.warmup:
        return settings.learning_rate * (step / settings.warmup)
    done = (step - settings.warmup) / (settings.steps - settings.warmup)
    share = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
    }
    return settings.learning_rate * share[settings.schedule]
