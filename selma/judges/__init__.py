"""Judges: models that look at a picture and answer a benchmark's questions about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from selma.benchmarks import Item, Question
from selma.errors import UserError


@dataclass(frozen=True)
class Answer:
    """What a judge said: one of the question's choices, and the probability (0..1) of "yes"."""

    answer: str
    p_yes: float


class Judge(Protocol):
    """Anything that answers questions about a picture, one Answer per question and in their order."""

    def answer(self, image: Image.Image, questions: Sequence[Question]) -> list[Answer]: ...


def _oracle() -> Judge:
    from selma.shapes.oracle import Oracle  # a judge's modules are loaded only where it is named

    return Oracle()


JUDGES: dict[str, Callable[[], Judge]] = {"oracle": _oracle}


def load_judge(name: str) -> Judge:
    """The judge of that name, ready to answer; raises UserError for a name that is not in JUDGES."""
    if name not in JUDGES:
        raise UserError(f"judge.name {name!r} is unknown; allowed: {', '.join(JUDGES)}")
    return JUDGES[name]()


def ask(judge: Judge, item: Item, image: Image.Image, k: int) -> list[dict[str, Any]]:
    """Ask all of an item's questions about its image `k`: rows {item, k, question, answer, p_yes, expected}.

    `p_yes` is rounded to 4 places. An answer that is none of the question's choices raises ValueError.
    """
    rows = []
    for question, said in zip(item.questions, judge.answer(image, list(item.questions)), strict=True):
        if said.answer not in question.choices:
            raise ValueError(
                f"judge said {said.answer!r} to {question.text!r}, which allows {question.choices}"
            )
        rows.append(
            {
                "item": item.id,
                "k": k,
                "question": question.id,
                "answer": said.answer,
                "p_yes": round(float(said.p_yes), 4),
                "expected": question.answer,
            }
        )
    return rows
