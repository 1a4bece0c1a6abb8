"""Before and after: the same prompts drawn by several models, one image above the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from random import Random

from PIL import Image, ImageDraw, ImageFont

from selma.ground.items import Item

TILE = 192  # width of a shown image in pixels; small ones are enlarged by a whole factor to about this
_GAP, _MARGIN, _COLUMNS = 16, 64, 5  # _MARGIN: the least room for names
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 34, 42), (110, 118, 130)


@dataclass(frozen=True)
class Cell:
    """One prompt and what each model drew for it, by the model's name; the first stands on top."""

    prompt: str
    skill: str
    images: Mapping[str, Image.Image]


def choose(items: Sequence[Item], per_skill: int, seed: int) -> list[Item]:
    """`per_skill` items of every skill by chance, never by score: first one of each skill, then the next.

    A skill with fewer items gives all it has.
    """
    generator = Random(seed)
    skills: dict[str, list[Item]] = {}
    for item in items:
        skills.setdefault(item.skill, []).append(item)
    picked = [generator.sample(group, min(per_skill, len(group))) for group in skills.values()]
    return [group[i] for i in range(per_skill) for group in picked if i < len(group)]


def compose(cells: Sequence[Cell]) -> Image.Image:
    """One RGB sheet of up to five cells in a row: images above each other, skill and prompt beneath.

    All cells have the same models; their names are at the left.
    """
    name_font, text_font = ImageFont.load_default(15), ImageFont.load_default(14)
    tiles = [[_enlarge(image) for image in cell.images.values()] for cell in cells]
    width = max(tile.width for column in tiles for tile in column)
    height = max(tile.height for column in tiles for tile in column)
    captions = [wrap(cell.prompt, text_font, width) for cell in cells]

    rows = [range(start, min(start + _COLUMNS, len(cells))) for start in range(0, len(cells), _COLUMNS)]
    n_models = len(cells[0].images)
    line = 18
    pictures = n_models * height + (n_models - 1) * 4
    heights = [pictures + 8 + line * (1 + max(len(captions[i]) for i in row)) for row in rows]
    n_columns = min(_COLUMNS, len(cells))
    margin = max(_MARGIN, *(ceil(name_font.getlength(name)) + _GAP // 2 for name in cells[0].images))
    sheet = Image.new(
        "RGB",
        (margin + n_columns * (width + _GAP) + _GAP, sum(heights) + _GAP * (len(rows) + 1)),
        _PAPER,
    )
    pen = ImageDraw.Draw(sheet)
    top = _GAP
    for row, row_height in zip(rows, heights, strict=True):
        for n, model in enumerate(cells[0].images):
            middle = top + n * (height + 4) + height // 2
            pen.text((_GAP // 2, middle), model, _INK, name_font, anchor="lm")
        for column, i in enumerate(row):
            left = margin + _GAP + column * (width + _GAP)
            for n, tile in enumerate(tiles[i]):
                sheet.paste(tile, (left, top + n * (height + 4)))
            pen.text((left, top + pictures + 8), cells[i].skill, _FAINT, text_font)
            for n, text in enumerate(captions[i], start=1):
                pen.text((left, top + pictures + 8 + n * line), text, _INK, text_font)
        top += row_height + _GAP
    return sheet


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels; a longer word has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _enlarge(image: Image.Image) -> Image.Image:
    """About TILE wide: small images by a whole factor with hard pixels, large ones reduced smoothly."""
    factor = TILE // image.width
    if factor >= 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image.resize((TILE, round(image.height * TILE / image.width)), Image.Resampling.LANCZOS)
