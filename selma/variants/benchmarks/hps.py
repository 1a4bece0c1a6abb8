"""The prompts of the Human Preference Score v2 benchmark (arXiv 2306.09341): four styles, 800 prompts each.

They have no questions: a preference score judges their images. A style's file is a JSON list of texts; the
images' numbers in the benchmark are the prompts' places in it, from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from selma.ground.files import read_record
from selma.ground.items import Item
from selma.ground.schema import Text

_Prompts = Annotated[list[Text], Field(min_length=1)]

NEEDS = ("files",)
QUESTIONS = False
# By style; kept next to the splits.
FILES = {
    "anime": "anime.json",
    "concept-art": "concept-art.json",
    "paintings": "paintings.json",
    "photo": "photo.json",
}


def read(files: Mapping[str, Path]) -> list[Item]:
    """Items of the style files given, named by style, in FILES' order; the style is the item's skill.

    Raises UserError for a file that is not a list of texts.
    """
    return [
        Item(id=f"{style}-{number:05d}", prompt=prompt, skill=style, source="hps", questions=())
        for style in FILES
        if style in files
        for number, prompt in enumerate(read_record(files[style], _Prompts))
    ]
