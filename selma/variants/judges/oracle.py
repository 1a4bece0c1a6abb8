"""The shapes world's oracle: it reads the images that the embedded backbone draws."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selma.ground.items import Question
from selma.shapes.reading.oracle import Oracle

ANSWERS, SCORES = True, False
NEEDS = ()
TAKES = ()


def check(questions: Iterable[Question]) -> None:
    """Raise UserError for a question that it cannot read."""
    Oracle().check(questions)


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> Oracle:
    """The judge; it has no weights."""
    return Oracle()
