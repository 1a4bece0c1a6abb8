"""The embedded judge: reads an image of the shapes world and answers questions about it."""

from __future__ import annotations

from collections.abc import Iterable

from PIL import Image

from selma.ground.errors import UserError
from selma.ground.items import Question
from selma.judging.judge import Answer
from selma.shapes.reading.vision import Blob, Picture, read_picture
from selma.shapes.world.questions import parse_question

_SMALL_BELOW, _LARGE_ABOVE = 18.8, 26.2  # pixels of the 64x64 canvas, midway between the drawn sizes


class Oracle:
    """Answers yes/no questions by looking at pixels; it never sees the prompt or the scene."""

    def answer(self, image: Image.Image, questions: list[Question]) -> list[Answer]:
        """One answer per question: "yes" or "no", with P(yes) 1.0 or 0.0.

        Raises UserError for a question it cannot read.
        """
        picture = read_picture(image)
        answers = []
        for question in questions:
            kind, arguments = _read(question)
            yes = _CHECKS[kind](picture, *arguments)
            answers.append(Answer("yes" if yes else "no", float(yes)))
        return answers

    def check(self, questions: Iterable[Question]) -> None:
        """Raise UserError for a question it cannot read, before there is an image to look at."""
        for question in questions:
            _read(question)


def _read(question: Question) -> tuple[str, tuple]:
    try:
        return parse_question(question.text)
    except ValueError as error:
        raise UserError(f"judge oracle: {error}; it answers only the shapes world's questions") from None


def _of(picture: Picture, shape: str) -> list[Blob]:
    return [blob for blob in picture.blobs if blob.shape == shape]


def _exists(picture: Picture, shape: str) -> bool:
    return bool(_of(picture, shape))


def _count(picture: Picture, number: int, shape: str) -> bool:
    return len(_of(picture, shape)) == number


def _color(picture: Picture, shape: str, color: str) -> bool:
    blobs = _of(picture, shape)
    return bool(blobs) and all(blob.color == color for blob in blobs)


def _size(picture: Picture, shape: str, size: str) -> bool:
    blobs = _of(picture, shape)
    if size == "small":
        return bool(blobs) and all(blob.side < _SMALL_BELOW for blob in blobs)
    return bool(blobs) and all(blob.side > _LARGE_ABOVE for blob in blobs)


def _relation(picture: Picture, first: str, relation: str, second: str) -> bool:
    """Between the centres of the two groups; the relation's axis must be the longer one."""
    a, b = _of(picture, first), _of(picture, second)
    if not a or not b:
        return False
    dx = sum(blob.x for blob in a) / len(a) - sum(blob.x for blob in b) / len(b)
    dy = sum(blob.y for blob in a) / len(a) - sum(blob.y for blob in b) / len(b)
    if relation in ("left", "right"):
        return abs(dx) > abs(dy) and (dx < 0) == (relation == "left")
    return abs(dy) > abs(dx) and (dy < 0) == (relation == "above")


def _background(picture: Picture, name: str) -> bool:
    return picture.background == name


_CHECKS = {
    "exists": _exists,
    "count": _count,
    "color": _color,
    "size": _size,
    "relation": _relation,
    "background": _background,
}
