"""The door to judges: any number of images, judged in batches, each answer given on as it comes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selma.ground.errors import UserError
from selma.judging.groups import BATCH, Came
from selma.judging.judge import Answer, Judge, Scorer

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.ground.items import Item, Question

Row = dict[str, Any]


def ask_all(
    judge: Judge, asked: Iterable[tuple[Item, int, Image]], batch: int = BATCH
) -> Iterator[list[Row]]:
    """Ask all questions of (item, k, image k of it): rows {item, k, question, answer, p_yes, expected} as they come,
    with `margin` and `tokens` (read, written) of judges that give them.

    A list holds what came together, and lists may come in any order; `batch` questions are asked at once by judges that
    can do that, which changes answers by no more than the kernels round. `p_yes` is rounded to 4 places. An answer
    that is not one of the question's choices raises ValueError, a probability that is none UserError.
    """
    shots: list[tuple[Item, int]] = []  # those that were taken

    def taken() -> Iterator[tuple[Image, Sequence[Question]]]:
        for item, k, image in asked:
            shots.append((item, k))
            yield image, item.questions

    answers = judge.answers(taken(), batch) if hasattr(judge, "answers") else _one_by_one(judge, taken())
    for came in answers:
        yield [_row(*shots[i], shots[i][0].questions[j], said) for (i, j), said in came.items()]


def rate_all(
    scorer: Scorer, asked: Iterable[tuple[Image, str]], batch: int = BATCH
) -> Iterator[Mapping[int, float]]:
    """A scorer's scores of (image, prompt), by number, as they come: what came together in one mapping.

    Raises UserError, naming the prompt, for a score that is not finite.
    """
    prompts: list[str] = []

    def taken() -> Iterator[tuple[Image, str]]:
        for image, prompt in asked:
            prompts.append(prompt)
            yield image, prompt

    if hasattr(scorer, "scores"):
        scores = scorer.scores(taken(), batch)
    else:
        scores = ({i: scorer.score(image, prompt)} for i, (image, prompt) in enumerate(taken()))
    for came in scores:
        for i, score in came.items():
            if not math.isfinite(score):
                raise UserError(
                    f"the judge's score of the image of {prompts[i]!r} is {score}; try another runtime.dtype"
                )
        yield came


def _one_by_one(judge: Judge, asked: Iterable[tuple[Image, Sequence[Question]]]) -> Iterator[Came[Answer]]:
    """The answers of a judge that takes one image at a time."""
    for i, (image, questions) in enumerate(asked):
        answers = judge.answer(image, list(questions))
        yield {(i, j): said for j, (_, said) in enumerate(zip(questions, answers, strict=True))}


def _row(item: Item, k: int, question: Question, said: Answer) -> Row:
    if said.answer not in question.choices:
        raise ValueError(f"judge said {said.answer!r} to {question.text!r}, which allows {question.choices}")
    if said.p_yes is not None and not 0 <= said.p_yes <= 1.0001:  # sums of probabilities round
        raise UserError(
            f"{item.id}: the judge's P(yes) to {question.text!r} is {said.p_yes}; 0 to 1 is allowed"
        )
    return {
        "item": item.id,
        "k": k,
        "question": question.id,
        "answer": said.answer,
        "p_yes": None if said.p_yes is None else round(float(said.p_yes), 4),
        "expected": question.answer,
        **({} if said.margin is None else {"margin": round(float(said.margin), 4)}),
        **({} if said.tokens is None else {"tokens": list(said.tokens)}),
    }
