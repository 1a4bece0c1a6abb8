"""Draw images: one seed per image, so that no image depends on its batch or on what was drawn before it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, Any

import torch

from selma.backbones import conditioning
from selma.backbones.ahead import ahead, plan
from selma.backbones.diversity import check_diversity, perturbed
from selma.backbones.loading import image_size
from selma.backbones.multimodal import Multimodal
from selma.backbones.schedulers import make_scheduler
from selma.ground.errors import UserError
from selma.images.denoise import denoise
from selma.images.guide import Guide
from selma.images.memory import remembering
from selma.images.tokens import draw_tokens
from selma.runtime.devices import enough_memory

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.backbones.loading import Pipeline
    from selma.runtime.candidates import Diversity
    from selma.runtime.params import Drawing

Advance = Callable[[float], None]

# On a CPU, cores draw parts of a batch side by side. Parts of this size (25 images of 64 px) keep what one layer hands
# to the next in the cache, and are large enough that Python's own time does not count.
PART_PIXELS = 25 * 64 * 64


def draw(
    pipe: Pipeline | Multimodal,
    texts: list[str],
    seeds: list[int],
    drawing: Drawing,
    *,
    method: str = "cfg",
    options: Mapping[str, Any] = {},
    diversity: Diversity | None = None,
    done: Collection[int] = (),
    shard: tuple[int, int] = (1, 1),
    advance: Advance = lambda images: None,
) -> Iterator[tuple[int, Image]]:
    """Draw texts[i] from the noise of seeds[i] and yield (i, RGB image) in order, skipping every i in `done`.

    `method` is the method of guidance (a file of selma/variants/guidance) with its `options`, `drawing.guidance` its
    scale; classifier-free guidance at 1 or less makes one UNet pass per step, above it two. `diversity` makes images of
    one text differ by more than their noise (diversity.py).
    The whole list is cut into even parts of at most `drawing.batch`, the last one padded: shapes are static, and an
    image keeps its part, hence its exact bytes, when drawing resumes after a stop. Of `shard` (i, n) only every n-th
    part is drawn, from the i-th on, 1 <= i <= n: the n shards together are the whole, byte for byte.
    A multimodal backbone draws tokens instead (tokens.py). Parts are drawn ahead of the caller, by threads; `advance`
    is told, from those threads, how many images' worth of steps is done.
    Raises UserError for an unknown scheduler or method, options that the method does not take, more steps than the
    backbone has and an impossible size, before anything is drawn; for an image that is not finite, naming its text; and
    where memory runs out.
    """
    if len(texts) != len(seeds):
        raise ValueError(f"{len(texts)} texts but {len(seeds)} seeds")
    if not texts:
        return
    if isinstance(pipe, Multimodal):
        own = {"method": method, "diversity": diversity}
        yield from draw_tokens(pipe, texts, seeds, drawing, **own, done=done, shard=shard, advance=advance)
        return
    check_diversity(diversity, multimodal=False)
    make_scheduler(drawing.scheduler, pipe.scheduler.config, drawing.steps)
    shape = _latent_shape(pipe, drawing.resolution)
    unique = list(dict.fromkeys(["", *texts]))
    row = {text: i for i, text in enumerate(unique)}
    encoded = conditioning.encode_texts(pipe, unique)
    guide = Guide(method, options, pipe, unique, encoded)
    pixels = shape[1] * shape[2] * pipe.vae_scale_factor**2
    parts = plan(len(texts), drawing.batch, PART_PIXELS // pixels, pipe.device.type)

    def part(start: int, stop: Event) -> torch.Tensor:
        indices = [min(i, len(texts) - 1) for i in range(start, start + parts.size)]
        said = encoded[[row[texts[i]] for i in indices]]
        if diversity is not None:
            said = replace(said, states=perturbed(said.states, [seeds[i] for i in indices], diversity))
        with enough_memory(f"lower drawing.batch ({drawing.batch} images at once) or drawing.resolution"):
            return denoise(
                pipe,
                make_scheduler(
                    drawing.scheduler, pipe.scheduler.config, drawing.steps
                ),  # it counts its steps
                {"text": said, "empty": encoded[[row[""]] * parts.size]},
                [torch.Generator().manual_seed(seeds[i]) for i in indices],
                shape,
                drawing.guidance,
                guide,
                [row[texts[i]] for i in indices],
                memory=memory,
                stop=stop,
                advance=lambda share: advance(share * len(wanted[start])),
            ).cpu()

    wanted = {
        start: [i for i in range(start, min(start + parts.size, len(texts))) if i not in done]
        for start in range(0, len(texts), parts.size)
    }
    starts = [start for start in list(wanted)[shard[0] - 1 :: shard[1]] if wanted[start]]
    jobs = (lambda stop, start=start: part(start, stop) for start in starts)
    watched = guide.watcher.watching() if guide.watcher else nullcontext()
    with remembering(pipe.unet) as memory, watched:
        drawn = ahead(jobs, parts.workers, parts.threads)
        try:
            for start, pixels in zip(starts, drawn, strict=True):
                _check_finite(pixels, texts[start : start + parts.size], drawing, pipe)
                images = pipe.image_processor.postprocess(pixels, output_type="pil")
                for i in wanted[start]:
                    yield i, images[i - start]
        finally:
            drawn.close()  # its threads end before the UNet forgets the memory


def contact_sheet(images: list[Image], columns: int = 4) -> Image:
    """Images of one size side by side, `columns` to a row, 2 pixels apart on white."""
    from PIL import Image as pil

    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = pil.new("RGB", (min(len(images), columns) * (width + 2) - 2, rows * (height + 2) - 2), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + 2), i // columns * (height + 2)))
    return sheet


def _check_finite(pixels: torch.Tensor, texts: list[str], drawing: Drawing, pipe: Pipeline) -> None:
    """Raise UserError, naming its text, for an image that is not finite; what pads a part repeats its last image."""
    finite = pixels.isfinite().flatten(1).all(dim=1).tolist()
    if not all(finite):
        text = texts[min(finite.index(False), len(texts) - 1)]
        raise UserError(
            f"the image of {text!r} is not finite (guidance {drawing.guidance}, "
            f"{str(pipe.unet.dtype).removeprefix('torch.')}); lower guidance, or set runtime.dtype to float32"
        )


def _latent_shape(pipe: Pipeline, size: int | None) -> tuple[int, int, int]:
    """(channels, height, width) of one image's latents, for a square of `size` pixels or the backbone's own."""
    width, height = image_size(pipe, size)
    return pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor
