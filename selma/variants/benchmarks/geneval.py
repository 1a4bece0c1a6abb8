"""GenEval (arXiv 2310.11513): 553 prompts of six kinds about objects, counts, colours and places.

Its metadata is a JSON object per line: the classes that an image must `include` (at least `count` of them, of a
`color`, at a `position` to the include of that index), and those of which it must `exclude` that many. The official
scorer is a Mask2Former detector, with CLIP for colours. This repository has neither: `read` makes questions of the same
facts for a VQA judge, and their scores are no official GenEval scores. scoring/geneval.py tables saved detections
officially.

Written from the official create_prompts.py and evaluate_images.py; not tried on the real file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from selma.ground.errors import UserError
from selma.ground.files import lines
from selma.ground.items import YES_NO, Item, Question
from selma.ground.schema import Count, Text, check, record
from selma.ground.words import article

NEEDS = ("url",)
TAKES = ("sha256",)
FILES = {"metadata": "metadata.jsonl"}  # kept next to the splits

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
COUNTS = tuple(str(number) for number in range(11))
PLACES = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
_PLURALS = {"person": "people", "knife": "knives", "sheep": "sheep", "skis": "skis", "scissors": "scissors"}

# `class` is a keyword of Python.
_Object = record(
    TypedDict(
        "_Object",
        {"class": Text, "count": Count, "color": NotRequired[Text], "position": NotRequired[list[Any]]},
    )
)


@record
class _Metadata(TypedDict):
    tag: Text
    include: Annotated[list[_Object], Field(min_length=1)]
    exclude: NotRequired[list[_Object]]
    prompt: Text


def read(files: Mapping[str, Path]) -> list[Item]:
    """The items, all in the test split, numbered as the official folders of images are; the skill is the tag.

    Raises UserError, naming the line, for one that is not such metadata.
    """
    path = files["metadata"]
    items = []
    for line, row in lines(path):
        check(_Metadata, row, f"{path}, line {line}", "the line")
        questions = _Asking(row, f"{path}, line {line}").questions
        items.append(
            Item(f"geneval-{len(items):05d}", row["prompt"], row["tag"], "geneval", tuple(questions))
        )
    if not items:
        raise UserError(f"{path}: holds no prompts; a line of metadata for each is needed")
    return items


class _Asking:
    """The questions of one line: whether each thing is there, then what is said of it, which depends on that."""

    def __init__(self, row: Mapping[str, Any], where: str) -> None:
        self.questions: list[Question] = []
        self._where = where
        things, excluded = row["include"], list(row.get("exclude", ()))
        there: list[str] = []  # by thing, the question whether it is there
        for thing in things:
            name = thing["class"]
            there.append(self._ask(f"Is there {article(name)}?", YES_NO, "yes", "object"))
            too_many = {"class": name, "count": thing["count"] + 1}
            if too_many in excluded:
                excluded.remove(too_many)
                self._count(name, thing["count"], there[-1])
            elif thing["count"] > 1:
                text = f"Are there at least {thing['count']} {plural(name)}?"
                self._ask(text, YES_NO, "yes", "count", there[-1])
            if "color" in thing:
                self._color(name, thing["color"], there[-1])
            if "position" in thing:
                self._place(things, thing, there)
        for thing in excluded:
            if thing["count"] > 1:
                raise UserError(
                    f"{where}: exclude is {thing}; it must be an included class with one more, or a class with count 1"
                )
            self._ask(f"Is there {article(thing['class'])}?", YES_NO, "no", "object")

    def _ask(self, text: str, choices: tuple[str, ...], answer: str, category: str, *parents: str) -> str:
        id = str(len(self.questions) + 1)
        self.questions.append(Question(id, text, choices, answer, parents, category))
        return id

    def _count(self, name: str, count: int, there: str) -> None:
        if str(count) not in COUNTS:
            raise UserError(f"{self._where}: count is {count}; it must be at most {COUNTS[-1]}")
        self._ask(f"How many {plural(name)} are there?", COUNTS, str(count), "count", there)

    def _color(self, name: str, color: str, there: str) -> None:
        if color not in COLORS:
            raise UserError(f"{self._where}: color is {color[:40]!r}; it must be one of: {', '.join(COLORS)}")
        self._ask(f"What color is the {name}?", COLORS, color, "color", there)

    def _place(self, things: list[Any], thing: Mapping[str, Any], there: list[str]) -> None:
        """`there` holds the questions of the things before this one, and its own."""
        place, target = thing["position"] if len(thing["position"]) == 2 else (None, None)
        if place not in PLACES or type(target) is not int or not 0 <= target < len(there) - 1:
            raise UserError(
                f"{self._where}: position is {thing['position']}; it must be one of {', '.join(PLACES)}, and the index "
                "of a thing that stands before"
            )
        text = f"Is the {thing['class']} {PLACES[place]} the {things[target]['class']}?"
        self._ask(text, YES_NO, "yes", "position", there[target], there[-1])


def plural(name: str) -> str:
    """Of the COCO classes that GenEval counts: "benches", "knives", "traffic lights"."""
    if name in _PLURALS:
        return _PLURALS[name]
    return f"{name}es" if name.endswith(("s", "ch", "sh")) else f"{name}s"
