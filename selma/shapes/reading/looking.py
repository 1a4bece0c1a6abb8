"""What a picture of the shapes world shows: the truth of a question about it."""

from __future__ import annotations

from selma.ground.items import Question
from selma.shapes.reading.vision import Blob, Picture
from selma.shapes.world.questions import parse_question

_SMALL_BELOW, _LARGE_ABOVE = 18.8, 26.2  # pixels of the 64x64 canvas, midway between the drawn sizes


def is_so(picture: Picture, question: Question) -> bool:
    """Whether the answer is yes; raises ValueError for a question of none of the six kinds."""
    kind, arguments = parse_question(question.text)
    return _CHECKS[kind](picture, *arguments)


def size_of(blob: Blob) -> str:
    """Of SIZES the one that a blob's side comes nearest to."""
    if blob.side < _SMALL_BELOW:
        return "small"
    return "large" if blob.side > _LARGE_ABOVE else "medium"


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
    return bool(blobs) and all(size_of(blob) == size for blob in blobs)


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
