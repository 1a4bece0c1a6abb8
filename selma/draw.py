"""Draw one prompt with the base and with the merged model, side by side, on the same noises.

    python -m selma.draw "two red circles on a black background" [--out draw.png] [--images 4] [--seed 0]

Backbone, scheduler, steps and guidance are those of params.yaml's evaluation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from selma.backbones.loading import load_pipeline
from selma.ground.errors import UserError
from selma.ground.pairs import image_seed, write_image
from selma.images import sampler
from selma.runtime.params import load_params

if TYPE_CHECKING:
    from PIL.Image import Image

TILE = 256  # smaller images are enlarged to about this size, pixel by pixel
MARGIN = 24


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m selma.draw", description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--out", type=Path, default=Path("draw.png"))
    parser.add_argument("--images", type=int, default=4, help="how many noises to draw from")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other noises")
    arguments = parser.parse_args()
    try:
        if arguments.images < 1:
            raise UserError(f"--images: {arguments.images}; allowed: 1 or more")
        rows = {
            "base": _draw(arguments.prompt, arguments.images, arguments.seed, None),
            "merged": _draw(arguments.prompt, arguments.images, arguments.seed, Path("models/merged")),
        }
        write_image(arguments.out, side_by_side(arguments.prompt, rows))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("interrupted")
    print(arguments.out)


def _draw(prompt: str, count: int, seed: int, lora: Path | None) -> list[Image]:
    """`count` images of one prompt, by the backbone or with a LoRA on it."""
    params = load_params()
    pipe = load_pipeline(
        Path("models/backbones") / params.expert.backbone,
        params.runtime.device,
        params.runtime.dtype,
        lora=lora,
    )
    drawn = sampler.draw(
        pipe,
        [prompt] * count,
        [image_seed(seed, prompt, k) for k in range(count)],
        steps=params.evaluate.steps,
        guidance=params.evaluate.guidance,
        scheduler=params.evaluate.scheduler,
        batch=count,
        size=params.evaluate.resolution,
    )
    return [image for _, image in drawn]


def side_by_side(prompt: str, columns: dict[str, list[Image]]) -> Image:
    """One column of images per name under that name, enlarged pixel by pixel, and the prompt beneath."""
    from PIL import Image, ImageDraw

    width, height = next(iter(columns.values()))[0].size
    scale = max(1, TILE // width)
    width, height = width * scale, height * scale
    rows = len(next(iter(columns.values())))
    lines = _wrap(prompt, len(columns) * (width + MARGIN) // 7)
    size = (MARGIN + len(columns) * (width + MARGIN), 2 * MARGIN + rows * (height + 8) + 16 * len(lines))
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    for column, (name, images) in enumerate(columns.items()):
        left = MARGIN + column * (width + MARGIN)
        pen.text((left, 6), name, fill="black")
        for row, image in enumerate(images):
            large = image.resize((width, height), Image.Resampling.NEAREST)
            page.paste(large, (left, MARGIN + row * (height + 8)))
    pen.multiline_text((MARGIN, MARGIN + rows * (height + 8) + 4), "\n".join(lines), fill="black")
    return page


def _wrap(text: str, characters: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, characters) or [""]


if __name__ == "__main__":
    main()
