"""Which prompts to keep: those unlike each other and unlike every benchmark prompt (SELMA, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from selma.prompts.rouge import RougeIndex, Vocabulary

EXAM_ROUGE_L = 0.8  # no training prompt comes closer to an exam prompt, whatever the threshold (paper: 0.8)

Reason = Literal["too_long", "exam", "similar"]


@dataclass(frozen=True)
class Verdict:
    """What became of a prompt: kept (no reason), or dropped; its nearest neighbour and their ROUGE-L F."""

    reason: Reason | None = None
    neighbour: str | None = None
    rouge_l: float | None = None

    @property
    def kept(self) -> bool:
        return self.reason is None


class DiversityFilter:
    """Takes prompts one by one and keeps those unlike all that came before.

    A prompt is dropped when it has more than `max_words` words, when it is an exam prompt or nearer to one than
    the threshold and EXAM_ROUGE_L allow, or when its ROUGE-L F to a seed or a kept prompt exceeds the
    threshold; the first of these reasons is the one given.
    """

    def __init__(self, threshold: float, max_words: int, exam: Iterable[str], seeds: Iterable[str]) -> None:
        vocabulary = Vocabulary()
        self._max_words = max_words
        # The threshold is a knob of diversity: turning it up must not let the exam into the training prompts.
        self._exam = RougeIndex(min(threshold, EXAM_ROUGE_L), vocabulary)
        self._exam_texts: dict[str, str] = {}
        self._reference = RougeIndex(threshold, vocabulary)
        for text in exam:
            self._exam.add(text)
            self._exam_texts.setdefault(_plain(text), text)
        for text in seeds:
            self._reference.add(text)

    def offer(self, prompt: str) -> Verdict:
        """Judge a prompt, and compare later ones with it if it is kept."""
        if len(prompt.split()) > self._max_words:
            return Verdict("too_long")
        if same := self._exam_texts.get(_plain(prompt)):  # also where ROUGE-L finds no token in it
            return Verdict("exam", same, 1.0)
        if near := self._exam.nearest(prompt):
            return Verdict("exam", *near)
        if near := self._reference.nearest(prompt):
            return Verdict("similar", *near)
        self._reference.add(prompt)
        return Verdict()


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
