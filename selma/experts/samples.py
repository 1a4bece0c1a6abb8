"""A look at an expert while it is trained: some of its own captions, drawn at every checkpoint from the same noise.

MLflow shows them; nothing else reads them, and they change no checkpoint. They are drawn by diffusers' own pipeline, so
that an edit of how this repository draws (selma/images) trains no expert again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selma.backbones.schedulers import make_scheduler
from selma.experts.draws import generator
from selma.ground.pairs import write_image
from selma.runtime import tracking
from selma.runtime.devices import enough_memory

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.backbones.loading import Pipeline
    from selma.runtime.params import Training

STEPS, GUIDANCE = 20, 3.0  # of DDIM: enough to see what is learned, too few to judge it by
COLUMNS = 4  # of the sheet


def show(
    pipe: Pipeline, texts: Sequence[str], settings: Training, seed: int, file: Path
) -> Callable[[int], None]:
    """What to call with a checkpoint's step: it draws, writes the sheet to `file`, and hands that to MLflow.

    The first `settings.samples` different captions of `texts` are drawn with the adapter that the UNet holds then.
    Without samples nothing is drawn, and the pipeline is not kept. Raises UserError, before anything is drawn, for a
    backbone that DDIM cannot draw with.
    """
    captions = list(dict.fromkeys(texts))[: settings.samples]
    if not captions:
        return lambda step: None
    make_scheduler("ddim", pipe.scheduler.config, STEPS)

    def draw_sheet(step: int) -> None:
        with enough_memory("lower expert.samples; training goes on from this checkpoint"):
            write_image(file, _sheet(_draw(pipe, captions, settings.resolution, seed)))
        tracking.log_image(file, f"samples-{step:06d}.png")

    return draw_sheet


def _draw(pipe: Pipeline, captions: Sequence[str], side: int | None, seed: int) -> list[Image]:
    """One RGB image of each caption, `side` pixels wide and high, by default of the backbone's own size."""
    pipe.scheduler = make_scheduler("ddim", pipe.scheduler.config, STEPS)
    drawn: list[Image] = []
    for number, caption in enumerate(
        captions
    ):  # one by one: what training has left of the memory is not much
        noise = generator(seed, "sample", number)
        found = pipe(
            caption,
            height=side,
            width=side,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=noise,
        )
        drawn += found.images
    return drawn


def _sheet(images: list[Image]) -> Image:
    """Images of one size in rows of COLUMNS."""
    from PIL import Image as pil

    width, height = images[0].size
    columns, rows = min(len(images), COLUMNS), -(-len(images) // COLUMNS)
    sheet = pil.new("RGB", (columns * width, rows * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % COLUMNS * width, i // COLUMNS * height))
    return sheet
