"""Pictures of one prompt by several models beside each other, with what the judge says beneath each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from PIL import Image, ImageDraw, ImageFont

from selma.reporting.sheets import wrap

TILE = 256  # smaller images are enlarged to about this size, pixel by pixel
MARGIN, GAP, LINE = 24, 12, 18
_PAPER, _INK, _FAINT, _RIGHT, _WRONG = "white", "#1e222a", "#6e7682", "#1a7f37", "#b42318"


@dataclass(frozen=True)
class Shown:
    """A picture, and the judge's verdict: how many questions it answers as expected, and what it said to the others.

    `wrong` holds lines such as "no: Is there a circle?"; `asked` is 0 where nobody was asked.
    """

    image: Image.Image
    right: int = 0
    asked: int = 0
    wrong: Sequence[str] = ()


@dataclass(frozen=True)
class Column:
    """What one model drew, from top to bottom, under its name."""

    name: str
    pictures: Sequence[Shown]


def compose(prompt: str, columns: Sequence[Column], labels: Sequence[str] = ()) -> Image.Image:
    """One RGB page: a column for each model, the prompt on top; `labels` name the rows at the left."""
    name_font, font = ImageFont.load_default(15), ImageFont.load_default(13)
    first = columns[0].pictures[0].image
    scale = max(1, TILE // first.width)
    width, height = first.width * scale, first.height * scale
    margin = max([MARGIN, *(ceil(font.getlength(label)) + 2 * GAP for label in labels)])
    total = margin + len(columns) * (width + MARGIN)
    title = wrap(prompt, name_font, total - margin - MARGIN)
    notes = [[_notes(shown, font, width) for shown in column.pictures] for column in columns]
    rows = range(len(columns[0].pictures))
    heights = [height + 6 + LINE * max(len(column[row]) for column in notes) + GAP for row in rows]
    above = GAP + LINE * (len(title) + 2)
    page = Image.new("RGB", (total, above + sum(heights) + GAP), _PAPER)
    pen = ImageDraw.Draw(page)
    for n, line in enumerate(title):
        pen.text((margin, GAP + n * LINE), line, _INK, name_font)
    for column, said in zip(columns, notes, strict=True):
        left = margin + columns.index(column) * (width + MARGIN)
        pen.text((left, above - LINE - 4), column.name, _FAINT, name_font)
        top = above
        for row in rows:
            image = column.pictures[row].image
            page.paste(image.resize((width, height), Image.Resampling.NEAREST), (left, top))
            for n, (line, ink) in enumerate(said[row]):
                pen.text((left, top + height + 6 + n * LINE), line, ink, font)
            top += heights[row]
    top = above
    for row, label in enumerate(labels):
        pen.text((GAP, top + height // 2), label, _FAINT, font, anchor="lm")
        top += heights[row]
    return page


def _notes(shown: Shown, font: ImageFont.FreeTypeFont, width: int) -> list[tuple[str, str]]:
    """The lines beneath a picture, each with its colour."""
    if not shown.asked:
        return []
    lines = [(f"{shown.right} of {shown.asked} right", _WRONG if shown.wrong else _RIGHT)]
    return lines + [(line, _WRONG) for text in shown.wrong for line in wrap(text, font, width)]
