"""What all judges that answer in words share: questions into prompts, words into choices, P(yes).

P(yes) is the probability of "yes" against "no" at the first word of the answer, over every spelling that the
model's vocabulary has of either. VQAScore (Lin et al. 2024, arXiv 2404.01291) is the probability of "yes" as
such, not against "no", as the answer to VQASCORE about a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from selma.ground.errors import UserError
from selma.ground.items import Question
from selma.judging import choices
from selma.judging.choices import is_yes_no
from selma.judging.groups import BATCH, Answering, Came, Model, Said
from selma.judging.judge import Answer

VQASCORE = 'Does this figure show "{}"? Please answer yes or no.'

Match = Callable[[str, Sequence[str]], str]


class VqaJudge(Answering):
    """A model as a judge: `prompt` phrases a question for it, `match` maps free words to a choice."""

    def __init__(self, model: Model, prompt: Callable[[Question], str], match: Match | None = None) -> None:
        self._model, self._prompt, self._match = model, prompt, match

    def answers(
        self, asked: Iterable[tuple[Image.Image, Sequence[Question]]], batch: int = BATCH
    ) -> Iterator[Came[Answer]]:
        """One Answer per question, as answers come: by the numbers of the image and of its question.

        After words that fit no choice no further image is taken, but what was asked already is still given, as a server
        was paid for it; then the error is raised.
        """
        questions: list[Sequence[Question]] = []  # of the images that were taken
        failures: list[UserError] = []

        def worded() -> Iterator[tuple[Image.Image, Sequence[str]]]:
            for image, some in asked:
                if failures:
                    return
                questions.append(some)
                yield image, [self._prompt(question) for question in some]

        for came in self._model.replies(worded(), batch):
            settled: dict[tuple[int, int], Answer] = {}
            for (i, j), said in came.items():
                try:
                    settled[i, j] = self._settle(questions[i][j], said)
                except UserError as error:
                    failures.append(error)
            yield settled
        if failures:
            raise failures[0]

    def score(self, image: Image.Image, prompt: str) -> float:
        """VQAScore of an image for a prompt, 0..1."""
        return next(self.scores([(image, prompt)]))[0]

    def scores(
        self, asked: Iterable[tuple[Image.Image, str]], batch: int = BATCH
    ) -> Iterator[Mapping[int, float]]:
        """The same of any number of images, as scores come, by the image's number."""
        worded = ((image, [VQASCORE.format(prompt)]) for image, prompt in asked)
        for came in self._model.replies(worded, batch):
            yield {i: said.yes for (i, _), said in came.items()}

    def _settle(self, question: Question, said: Said) -> Answer:
        if not is_yes_no(question.choices):
            return Answer(self._choose(question, said.text), None, tokens=said.tokens)
        total = said.yes + said.no
        p_yes = said.yes / total if total > 0 else 0.5
        wanted = choices.yes_or_no(said.text) or ("yes" if p_yes >= 0.5 else "no")
        answer = next(c for c in question.choices if choices.normal(c) == wanted)
        return Answer(answer, p_yes, tokens=said.tokens)

    def _choose(self, question: Question, text: str) -> str:
        if found := choices.match(text, question.choices):
            return found
        if self._match is not None:
            return self._match(text, question.choices)
        inside = [
            c for c in question.choices if re.search(rf"\b{re.escape(choices.normal(c))}\b", text.casefold())
        ]
        if len(inside) == 1:
            return inside[0]
        raise UserError(
            f"the judge says {text[:80]!r} to {question.text!r}, which is not one of {', '.join(question.choices)}; "
            "a `matcher` in its entry under `judges` maps such answers to the nearest choice"
        )


def instruct(question: Question) -> str:
    """A question with its choices spelled out, for a model that follows instructions."""
    if is_yes_no(question.choices):
        return f"{question.text} Please answer yes or no."
    return (
        f"{question.text} Choices: {', '.join(question.choices)}. Please answer with one of the choices only."
    )


def load_matcher(folder: Path) -> Match | None:
    """The function that maps words to the nearest choice, if the judge's folder holds an embedding for it."""
    if not (folder / "matcher").is_dir():
        return None
    from selma.judging.embedding import SentenceEmbedder

    return choices.chooser(SentenceEmbedder(folder / "matcher"))


def yes_no_tokens(tokenizer: Any, where: Path) -> tuple[list[int], list[int]]:
    """The ids with which "yes" and "no" begin, over spellings; ids that begin both are ambiguous and left out.

    Raises UserError if none are left.
    """
    unknown = tokenizer.unk_token_id

    def first(word: str) -> set[int]:
        spellings = (f"{space}{form}" for space in ("", " ") for form in (word, word.title(), word.upper()))
        ids = (tokenizer.encode(spelling, add_special_tokens=False)[:1] for spelling in spellings)
        return {id for found in ids for id in found if id != unknown}

    yes, no = first("yes"), first("no")
    if not yes - no or not no - yes:
        raise UserError(f"{where}: this tokenizer has no tokens that tell yes from no, so it cannot be used")
    return sorted(yes - no), sorted(no - yes)
