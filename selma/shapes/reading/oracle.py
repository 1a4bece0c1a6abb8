"""The embedded judge: reads an image of the shapes world and answers questions about it."""

from __future__ import annotations

from collections.abc import Iterable

from PIL import Image

from selma.ground.errors import UserError
from selma.ground.items import Question
from selma.judging.judge import Answer
from selma.shapes.reading.looking import is_so
from selma.shapes.reading.vision import read_picture
from selma.shapes.world.questions import parse_question


class Oracle:
    """Answers yes/no questions by looking at pixels; it never sees the prompt or the scene."""

    def answer(self, image: Image.Image, questions: list[Question]) -> list[Answer]:
        """One answer per question: "yes" or "no", with P(yes) 1.0 or 0.0.

        Raises UserError for a question it cannot read.
        """
        self.check(questions)
        picture = read_picture(image)
        found = [is_so(picture, question) for question in questions]
        return [Answer("yes" if yes else "no", float(yes)) for yes in found]

    def check(self, questions: Iterable[Question]) -> None:
        """Raise UserError for a question it cannot read, before there is an image to look at."""
        for question in questions:
            try:
                parse_question(question.text)
            except ValueError as error:
                raise UserError(
                    f"judge oracle: {error}; it answers only the shapes world's questions"
                ) from None
