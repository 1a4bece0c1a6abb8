"""Our sampler beside diffusers' own pipeline: the same pictures, and how much sooner?

    python -m bench.sample                                 the embedded backbone on this CPU
    python -m bench.sample --backbone models/backbones/sd14 --device cuda --dtype bfloat16 --batch 16
    python -m bench.sample --size sd2-512 --device cuda --dtype bfloat16 --batch 16    random weights of that size

The pipeline draws the same prompts from the same seeds, once one prompt at a time and once in our batches; all three
write the files, as our stages do. In float32 a picture that differs by more than a grey level of 255 is an error.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from tabulate import tabulate

from bench._arguments import at_least, not_negative
from bench._machine import SIZES, quiet, random_backbone, seconds
from bench.train import WORDS
from selma.backbones.loading import load_pipeline
from selma.backbones.schedulers import make_scheduler
from selma.ground.errors import UserError
from selma.ground.pairs import image_seed, read_image, write_image
from selma.images.folder import draw_folder
from selma.runtime import command
from selma.runtime.devices import device_name, pick_device, torch_dtype
from selma.runtime.params import Drawing


def main() -> int:
    parser = command.Parser(prog="python -m bench.sample", description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", type=Path, default=Path("models/backbones/shapes"))
    parser.add_argument("--size", choices=SIZES, help="random weights of this size, instead of a backbone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--images", type=at_least(1), default=200)
    parser.add_argument(
        "--alone", type=at_least(1), default=40, help="images that are drawn one at a time (default: 40)"
    )
    parser.add_argument("--batch", type=at_least(1), default=50)
    parser.add_argument("--steps", type=at_least(1), default=12)
    parser.add_argument("--guidance", type=not_negative, default=3.0)
    return command.run(lambda: measure(parser.parse_args()))


def measure(given: argparse.Namespace) -> None:
    given.device = pick_device(given.device)
    words = random.Random(0)
    texts = [" ".join(words.choices(WORDS, k=10)) for _ in range(given.images)]
    rows = [
        {"file_name": f"{i}.webp", "text": text, "id": str(i), "seed": image_seed(42, str(i), 0)}
        for i, text in enumerate(texts)
    ]
    drawing = Drawing("ddim", given.steps, given.guidance, given.batch)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        backbone = given.backbone
        if given.size:
            backbone = random_backbone(given.size, root / "backbone", given.device, given.dtype)
        quiet()
        ours = load_pipeline(backbone, given.device, given.dtype)
        plain = plain_pipeline(backbone, given)
        few = rows[: min(given.alone, len(rows))]
        for warm in (partial(draw_folder, ours, rows[:2]), partial(by_pipeline, plain, rows[:2], batch=2)):
            warm(root / "warm", drawing)
        took = {
            "pipeline, one at a time": seconds(
                lambda: by_pipeline(plain, few, root / "one", drawing, batch=1), given.device
            )
            / len(few),
            f"pipeline, batches of {given.batch}": seconds(
                lambda: by_pipeline(plain, rows, root / "batch", drawing, batch=given.batch), given.device
            )
            / len(rows),
            "ours": seconds(lambda: draw_folder(ours, rows, root / "ours", drawing), given.device)
            / len(rows),
        }
        apart = max(
            difference(root / "ours" / row["file_name"], root / other / row["file_name"])
            for other, drawn in (("one", few), ("batch", rows))
            for row in drawn
        )
    print(
        f"{given.size or given.backbone.name}, {given.dtype}, {given.images} images, DDIM {given.steps} steps, "
        f"guidance {given.guidance:g}, on {device_name(given.device)}"
    )
    table = [[name, each * 1e3, 1 / each, each / took["ours"]] for name, each in took.items()]
    print(
        tabulate(table, ["", "ms an image", "images/s", "ours is faster"], floatfmt=(".1f",) * 3 + (".2f",))
    )
    print(f"pictures at most {apart} of 255 grey levels apart")
    if apart > 1 and given.dtype == "float32":
        raise UserError(f"bench.sample: pictures are {apart} grey levels apart; at most 1 is rounding")


def plain_pipeline(backbone: Path, given: argparse.Namespace) -> object:
    """The backbone as diffusers opens it, with the same sampler."""
    from diffusers import DiffusionPipeline

    options = {"dtype": torch_dtype(given.dtype), "local_files_only": True}
    pipe = DiffusionPipeline.from_pretrained(backbone, **options).to(given.device)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = make_scheduler("ddim", pipe.scheduler.config, given.steps)
    return pipe


def by_pipeline(pipe: object, rows: list[dict], folder: Path, drawing: Drawing, *, batch: int) -> None:
    """What a user writes: the pipeline called on prompts, and its images saved."""
    import torch

    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        images = pipe(
            [row["text"] for row in part],
            num_inference_steps=drawing.steps,
            guidance_scale=drawing.guidance,
            generator=[torch.Generator().manual_seed(row["seed"]) for row in part],
        ).images
        for row, image in zip(part, images, strict=True):
            write_image(folder / row["file_name"], image)


def difference(first: Path, second: Path) -> int:
    """The largest difference of two images, of 255."""
    one, other = (np.asarray(read_image(file), dtype=int) for file in (first, second))
    return int(np.abs(one - other).max())


if __name__ == "__main__":
    sys.exit(main())
