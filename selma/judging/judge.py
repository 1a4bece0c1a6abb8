"""Judges: models that look at an image and answer questions about it, or score it for its prompt.

A judge is a folder models/judges/<name>/ that stages/judge.py made; `judge.json` in it says its kind, which is a file
of selma/variants/judges. Some answer a benchmark's questions, some score an image for its prompt, some do both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, Protocol

from PIL import Image
from typing_extensions import TypedDict

from selma.ground.errors import UserError
from selma.ground.files import read_record
from selma.ground.items import Question
from selma.ground.schema import Text, record
from selma.runtime import timing, variants
from selma.runtime.places import JUDGE_CARD, JUDGES


@record
class Server(TypedDict):
    """The server behind a judge of kind endpoint, as in params.yaml."""

    model: Text
    base_url: str | None
    key_env: str | None


@record
class Card(TypedDict):
    """judge.json, as far as it is read again: the kind; the rest says where the files came from."""

    kind: str
    endpoint: NotRequired[Server]


@dataclass(frozen=True)
class Answer:
    """What a judge said: one of the question's choices, and the probability (0..1) of "yes".

    `p_yes` is None where "yes" is not one of the choices. `margin` is p(yes) - p(no), of a model that is scored by it.
    `tokens` are those that a server has read and written for this answer, where it says so.
    """

    answer: str
    p_yes: float | None
    margin: float | None = None
    tokens: tuple[int, int] | None = None


class Judge(Protocol):
    """Anything that answers questions about an image, one Answer per question and in their order.

    One that does better with many images at once has `answers`, too (vqa.py); many.py is the door to both. One that
    cannot read every question has `check(questions)`, which raises UserError for such a one.
    """

    def answer(self, image: Image.Image, questions: Sequence[Question]) -> list[Answer]: ...


class Scorer(Protocol):
    """Anything that scores an image for a prompt; the higher the better, each on a scale of its own.

    One that does better with many images at once has `scores`, too (vqa.py, clip.py).
    """

    def score(self, image: Image.Image, prompt: str) -> float: ...


def load_judge(name: str, device: str = "auto", dtype: str = "float32", drawer: Path | None = None) -> Judge:
    """The judge of that name, ready to answer, on `runtime.device` and in `runtime.dtype`.

    A judge that is the model itself (its kind declares SELF) answers with the LoRA in `drawer`, which drew the images.
    Raises UserError for a name that has no folder, for a kind that answers no questions, and for a folder that
    cannot be loaded.
    """
    return _load(name, device, dtype, "ANSWERS", "answers no questions", drawer)


def load_scorer(name: str, device: str = "auto", dtype: str = "float32") -> Scorer:
    """The scorer in models/judges/<name>; a judge that answers questions scores by VQAScore, in `dtype`.

    Raises UserError for a name that has no folder, a folder that cannot be loaded, and a judge without scores.
    """
    return _load(name, device, dtype, "SCORES", "gives no scores")


def read_card(name: str) -> dict[str, Any]:
    """judge.json of the judge of that name: its kind and where it came from; raises UserError if it is missing."""
    file = JUDGES / name / JUDGE_CARD
    if not file.is_file():
        raise UserError(
            f"judge {name!r}: {file} is missing; stage judge@{name} writes it, or own_judge@{name} if it is your own"
        )
    return read_record(file, Card)


@timing.phase("loading")
def _load(name: str, device: str, dtype: str, needed: str, lacking: str, drawer: Path | None = None) -> Any:
    """The judge of that name; raises UserError, before anything is loaded, if its kind does not declare `needed`."""
    folder, card = JUDGES / name, read_card(name)
    kind = variants.load("judges", card["kind"], f"{folder / JUDGE_CARD}: kind")
    if not getattr(kind, needed):
        raise UserError(f"judge {name!r} is of kind {card['kind']}, which {lacking}")
    if lacks := {"endpoint"} & set(kind.NEEDS) - card.keys():
        raise UserError(f"{folder / JUDGE_CARD}: has no {lacks.pop()}; run stage judge@{name} again")
    own = {"lora": drawer} if drawer is not None and getattr(kind, "SELF", False) else {}
    return kind.load(folder, card, device, dtype, **own)
