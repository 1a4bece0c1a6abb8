"""Draw images: one seed per image, so that no image depends on its batch or on what was drawn before it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from selma.backbones import conditioning
from selma.backbones.latents import to_vae
from selma.backbones.loading import image_size
from selma.backbones.schedulers import make_scheduler
from selma.ground.errors import UserError
from selma.ground.files import write_jsonl
from selma.ground.pairs import METADATA, write_image
from selma.runtime import variants
from selma.runtime.devices import enough_memory

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.backbones.conditioning import Conditioning
    from selma.backbones.loading import Pipeline
    from selma.runtime.params import Drawing

DECODE_PIXELS = (
    8 * 512 * 512
)  # decoding takes most of the memory: eight 512 px images at a time, or 2,048 of 32 px


def draw(
    pipe: Pipeline,
    texts: list[str],
    seeds: list[int],
    drawing: Drawing,
    *,
    method: str = "cfg",
    done: Collection[int] = (),
) -> Iterator[tuple[int, Image]]:
    """Draw texts[i] from the noise of seeds[i] and yield (i, RGB image) in order, skipping every i in `done`.

    `method` is the method of guidance (a file of selma/variants/guidance), `drawing.guidance` its scale;
    classifier-free guidance at 1 or less makes one UNet pass per step, above it two.
    The whole list is cut into even batches of at most `drawing.batch`, the last one padded: shapes are static, and an
    image keeps its batch, hence its exact bytes, when drawing resumes after a stop.
    Raises UserError for an unknown scheduler or method, more steps than the backbone has and an impossible size, before
    anything is drawn; for an image that is not finite, naming its text; and where memory runs out.
    """
    if len(texts) != len(seeds):
        raise ValueError(f"{len(texts)} texts but {len(seeds)} seeds")
    if not texts:
        return
    guide = variants.load("guidance", method, "guidance")
    batch = math.ceil(len(texts) / math.ceil(len(texts) / drawing.batch))
    pipe.scheduler = make_scheduler(drawing.scheduler, pipe.scheduler.config, drawing.steps)
    shape = _latent_shape(pipe, drawing.resolution)
    unique = list(dict.fromkeys(["", *texts]))
    row = {text: i for i, text in enumerate(unique)}
    encoded = conditioning.encode_texts(pipe, unique)
    for start in range(0, len(texts), batch):
        wanted = [i for i in range(start, min(start + batch, len(texts))) if i not in done]
        if not wanted:
            continue
        indices = [min(i, len(texts) - 1) for i in range(start, start + batch)]
        with enough_memory(f"lower drawing.batch ({batch} images at once) or drawing.resolution"):
            pixels = _draw_batch(
                pipe,
                {"text": encoded[[row[texts[i]] for i in indices]], "empty": encoded[[row[""]] * batch]},
                [torch.Generator().manual_seed(seeds[i]) for i in indices],
                shape,
                drawing.steps,
                drawing.guidance,
                guide,
            )
        finite = pixels.isfinite().flatten(1).all(dim=1).tolist()
        if not all(finite):
            raise UserError(
                f"the image of {texts[indices[finite.index(False)]]!r} is not finite (guidance {drawing.guidance}, "
                f"{str(pipe.unet.dtype).removeprefix('torch.')}); lower guidance, or set runtime.dtype to float32"
            )
        images = pipe.image_processor.postprocess(pixels, output_type="pil")
        for i in wanted:
            yield i, images[i - start]


def draw_folder(
    pipe: Pipeline,
    rows: list[dict],
    folder: Path,
    drawing: Drawing,
    *,
    method: str = "cfg",
    progress: Callable[[Iterable, int], Iterable] = lambda images, total: images,
) -> None:
    """Draw an HF imagefolder: an image per row {file_name, text, seed, ...}, then metadata.jsonl with the rows.

    Images that an earlier, killed call drew into `folder` are kept; each is renamed into place when whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for half_written in folder.glob(".tmp-*"):
        half_written.unlink()
    done = {i for i, row in enumerate(rows) if (folder / row["file_name"]).exists()}
    images = draw(
        pipe,
        [row["text"] for row in rows],
        [row["seed"] for row in rows],
        drawing,
        method=method,
        done=done,
    )
    for i, image in progress(images, len(rows) - len(done)):
        write_image(folder / rows[i]["file_name"], image)
    write_jsonl(folder / METADATA, rows)


def contact_sheet(images: list[Image], columns: int = 4) -> Image:
    """Images of one size side by side, `columns` to a row, 2 pixels apart on white."""
    from PIL import Image as pil

    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = pil.new("RGB", (min(len(images), columns) * (width + 2) - 2, rows * (height + 2) - 2), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + 2), i // columns * (height + 2)))
    return sheet


def _latent_shape(pipe: Pipeline, size: int | None) -> tuple[int, int, int]:
    """(channels, height, width) of one image's latents, for a square of `size` pixels or the backbone's own."""
    width, height = image_size(pipe, size)
    return pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor


@torch.inference_mode()
def _draw_batch(
    pipe: Pipeline,
    texts: Mapping[str, Conditioning],
    generators: list[torch.Generator],
    shape: tuple[int, int, int],
    steps: int,
    guidance: float,
    guide: ModuleType,
) -> torch.Tensor:
    """Denoise and decode one batch, from its conditionings by branch of the guidance and one CPU generator per image.

    Pixels [n, 3, height, width], fp32, in about -1..1; not finite where the latents were not.
    """
    device, dtype, scheduler = pipe.device, pipe.unet.dtype, pipe.scheduler
    branches = guide.branches(guidance)
    condition = conditioning.concatenate([texts[branch] for branch in branches])
    pixels = (shape[1] * pipe.vae_scale_factor, shape[2] * pipe.vae_scale_factor)
    ids = torch.tensor([conditioning.time_ids(pixels, (0, 0), pixels)], device=device).float()
    inputs = condition.to(device, dtype).unet_inputs(ids.expand(len(condition.states), -1))
    scheduler.set_timesteps(steps, device=device)
    # fp32 on the CPU: the same noise on every machine; latents stay fp32 through the scheduler's arithmetic
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    latents = noise.to(device) * scheduler.init_noise_sigma
    extra = _step_options(scheduler, generators)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, t).to(dtype)
        predicted = pipe.unet(torch.cat([scaled] * len(branches)), t, **inputs, return_dict=False)[0].float()
        prediction = guide.combine(predicted.chunk(len(branches)), guidance)
        latents = scheduler.step(prediction, t, latents, return_dict=False, **extra)[0]
    return _decode(pipe, latents)


def _step_options(scheduler: object, generators: list[torch.Generator]) -> dict:
    """Per-image generators where the scheduler takes them: ancestral ones draw noise at every step.

    The generators continue where the initial noise stopped, as in diffusers' own pipelines; schedulers that are
    deterministic (DDIM at its eta of 0) accept them and draw nothing from them.
    """
    takes = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": generators} if takes else {}


def _decode(pipe: Pipeline, latents: torch.Tensor) -> torch.Tensor:
    """Latents [n, channels, h, w] to pixels [n, 3, height, width], fp32, a few at a time to bound memory.

    Latents that are not finite stay so: a VAE's norms could hide them.
    """
    factor = pipe.vae_scale_factor
    pixels = latents.shape[2] * latents.shape[3] * factor**2
    latents = to_vae(pipe, latents).to(pipe.vae.dtype)
    decoded = [
        pipe.vae.decode(part, return_dict=False)[0].float()
        for part in latents.split(max(1, DECODE_PIXELS // pixels))
    ]
    broken = ~latents.isfinite().flatten(1).all(dim=1)
    return torch.cat(decoded).masked_fill(broken[:, None, None, None], torch.nan)
