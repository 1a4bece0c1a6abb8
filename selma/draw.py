"""Draw one prompt with several models, side by side, from the same initial noise.

    python -m selma.draw "two red circles on a black background" [--models base merged] [--images 4] [--seed 0]

Backbone, scheduler, steps and guidance are those of params.yaml's evaluation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from selma.ground.errors import UserError
from selma.ground.items import Item
from selma.ground.pairs import write_image
from selma.runtime import command
from selma.runtime.params import Params, load_params
from selma.runtime.places import BACKBONES

if TYPE_CHECKING:
    from PIL.Image import Image

TILE = 256  # smaller images are enlarged to about this size, pixel by pixel
MARGIN = 24
MOST = 100  # images of a model on one page


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m selma.draw", description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help="rows of `models` (default: the first pair in `compare`)"
    )
    parser.add_argument("--out", type=Path, default=Path("draw.png"))
    parser.add_argument("--images", type=int, default=4, help="number of images per model (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial noise (default: 0)")
    arguments = parser.parse_args()
    if code := command.run(lambda: _main(arguments)):
        sys.exit(code)


def _main(arguments: argparse.Namespace) -> None:
    if not 1 <= arguments.images <= MOST:
        raise UserError(f"--images: {arguments.images}; allowed: 1 to {MOST}")
    try:
        arguments.prompt.encode()
    except UnicodeEncodeError:  # bytes of a terminal that is not set to UTF-8
        raise UserError(f"prompt: {arguments.prompt!a} is not UTF-8 text") from None
    _check_out(arguments.out)
    params = load_params()
    names = arguments.models or [*reversed(params.compare[0])]
    for name in names:
        if name not in params.models:
            raise UserError(f"--models: {name}; allowed: {', '.join(params.models)}")
    item = Item(arguments.prompt, arguments.prompt, "", "", ())
    columns = {name: _draw(params, name, item, arguments.images, arguments.seed) for name in names}
    write_image(arguments.out, side_by_side(arguments.prompt, columns))
    print(arguments.out)


def _check_out(out: Path) -> None:
    """Raise UserError or OSError, before anything is drawn, where the page could not be written."""
    if out.suffix.lower() not in (".png", ".webp") or out.is_dir():
        raise UserError(f"--out: {out}; allowed: a file that ends in .png or .webp")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent):
        pass


def _draw(params: Params, model: str, item: Item, images: int, seed: int) -> list[Image]:
    """Images of one prompt by one model, drawn as the evaluation draws."""
    from selma.backbones.loading import open_model  # torch: not before the options are known to be right
    from selma.scoring import exam

    row, runtime = params.models[model], params.runtime
    pipe = open_model(
        Path(row.weights), Path(BACKBONES) / params.expert.backbone, runtime.device, runtime.dtype
    )
    drawn = exam.draw(
        pipe,
        [item],
        params.evaluate.drawing,
        images=images,
        seed=seed,
        method=row.guidance,
        options=row.options,
    )
    return [image for _, _, image in drawn]


def side_by_side(prompt: str, columns: dict[str, list[Image]]) -> Image:
    """One column of images per model under its name, enlarged pixel by pixel, with the prompt beneath."""
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
