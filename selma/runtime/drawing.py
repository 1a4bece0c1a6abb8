"""How images are drawn: one block of settings, wherever params.yaml draws."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from selma.ground.schema import Count, one_of, section

TOKENS = "tokens"  # in a scheduler's place: image tokens one after another, as multimodal backbones draw
SCHEDULERS = ("ddim", "ddpm", "dpm++", "euler", "euler_ancestral", "pndm", TOKENS)

NonNegative = Annotated[float, Field(ge=0)]
Pixels = Annotated[int, Field(ge=8, le=16383)]  # of each side of an image; WebP's largest


@section
class Drawing:
    """How images are drawn; `guidance` is the scale, `batch` the most at once, `resolution` null the backbone's own."""

    scheduler: Annotated[str, one_of(SCHEDULERS)]
    steps: Count
    guidance: NonNegative
    batch: Count
    resolution: Pixels | None = None
