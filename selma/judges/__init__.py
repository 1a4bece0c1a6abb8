"""Judges: models that look at a picture and answer a benchmark's questions about it.

A judge is a folder models/judges/<name>/ that stages/judge.py made; `judge.json` in it says its kind. What
scores an image for its prompt instead is in selma/judges/scorers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from selma.benchmarks import Item, Question
from selma.ground import records
from selma.ground.errors import UserError
from selma.published import CARD, FOLDER


@dataclass(frozen=True)
class Answer:
    """What a judge said: one of the question's choices, and the probability (0..1) of "yes".

    `p_yes` is None where "yes" is none of the choices.
    """

    answer: str
    p_yes: float | None


class Judge(Protocol):
    """Anything that answers questions about a picture, one Answer per question and in their order."""

    def answer(self, image: Image.Image, questions: Sequence[Question]) -> list[Answer]: ...


# A judge's modules are loaded only where it is named.
def _oracle() -> Judge:
    from selma.shapes.oracle import Oracle

    return Oracle()


def _blip_vqa(folder: Path, card: dict[str, Any], device: str, dtype: str) -> Judge:
    from selma.judges.blip import load_blip_vqa

    return load_blip_vqa(folder, device, dtype)


def _blip2(folder: Path, card: dict[str, Any], device: str, dtype: str) -> Judge:
    from selma.judges.blip import load_blip2

    return load_blip2(folder, device, dtype)


def _instructblip(folder: Path, card: dict[str, Any], device: str, dtype: str) -> Judge:
    from selma.judges.blip import load_instructblip

    return load_instructblip(folder, device, dtype)


def _chat_vlm(folder: Path, card: dict[str, Any], device: str, dtype: str) -> Judge:
    from selma.judges.chat import load_chat

    return load_chat(folder, device, dtype)


def _endpoint(folder: Path, card: dict[str, Any], device: str, dtype: str) -> Judge:
    from selma.judges.endpoint import load_endpoint

    return load_endpoint(folder, **card["endpoint"])


# Judges that are part of this repository, by name.
JUDGES: dict[str, Callable[[], Judge]] = {"oracle": _oracle}
# Kinds of judges that have a folder: (folder, judge.json, runtime.device, runtime.dtype) -> judge.
KINDS: dict[str, Callable[[Path, dict[str, Any], str, str], Judge]] = {
    "blip_vqa": _blip_vqa,
    "blip2": _blip2,
    "instructblip": _instructblip,
    "chat_vlm": _chat_vlm,
    "endpoint": _endpoint,
}


def load_judge(name: str, device: str = "auto", dtype: str = "float32") -> Judge:
    """The judge of that name, ready to answer, on `runtime.device` and in `runtime.dtype`.

    Raises UserError for a name that is neither in JUDGES nor a folder, for a kind that answers no questions,
    and for a folder that cannot be loaded.
    """
    if name in JUDGES:
        return JUDGES[name]()
    card = read_card(name)
    if card["kind"] not in KINDS:
        raise UserError(
            f"judge.name {name!r} is a {card['kind']}, which answers no questions; allowed: {', '.join(KINDS)}"
        )
    return KINDS[card["kind"]](FOLDER / name, card, device, dtype)


def read_card(name: str) -> dict[str, Any]:
    """judge.json of the judge of that name: its kind and where it came from; UserError where there is none."""
    file = FOLDER / name / CARD
    if not file.is_file():
        raise UserError(
            f"judge.name {name!r} is unknown: {file} is not there, which stage judge@{name} writes; "
            f"allowed without: {', '.join(JUDGES)}"
        )
    card = records.read_json(file)
    if not isinstance(card, dict) or not isinstance(card.get("kind"), str):
        raise UserError(f"{file}: says no kind; run stage judge@{name} again")
    return card


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
                "p_yes": None if said.p_yes is None else round(float(said.p_yes), 4),
                "expected": question.answer,
            }
        )
    return rows
