"""Which prompts to keep: those unlike each other and unlike every benchmark prompt (SELMA, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from selma.prompts.encoding import Vocabulary
from selma.prompts.index import RougeIndex

EXAM_ROUGE_L = 0.8  # no training prompt comes closer to an exam prompt, whatever the threshold (paper: 0.8)

_ANY_LENGTH = 10**9  # words
_FIRST, _BLOCK = 512, 1 << 16  # prompts in the first block and in the largest

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
    """Takes prompts in order of arrival and keeps those unlike all that came before.

    A prompt is dropped when it has more than `max_words` words, when it is an exam prompt or nearer to one than
    the threshold and EXAM_ROUGE_L allow, or when its ROUGE-L F to a seed or a kept prompt exceeds the
    threshold; the first of these reasons is the one given.
    """

    def __init__(self, threshold: float, max_words: int, exam: Iterable[str], seeds: Iterable[str]) -> None:
        self._vocabulary = Vocabulary()
        self._max_words = max_words
        self._exam_texts = list(exam)
        self._exam_places = {_plain(text): i for i, text in reversed([*enumerate(self._exam_texts)])}
        # The threshold is a knob of diversity: turning it up must not let the exam into the training prompts.
        self._exam = RougeIndex(min(threshold, EXAM_ROUGE_L))
        self._exam.add([self._vocabulary.encode(text) for text in self._exam_texts])
        self._reference_texts = list(seeds)
        self._reference = RougeIndex(threshold)
        self._reference.add([self._vocabulary.encode(text) for text in self._reference_texts])

    def judge(self, prompts: Iterable[str]) -> Iterator[Verdict]:
        """Judge prompts, each beside those kept before it.

        They are taken in blocks that grow with the number of prompts kept: prompts behind the last verdict that is
        asked for may have been judged, too, and count for later calls.
        """
        prompts = iter(prompts)
        while block := list(islice(prompts, min(max(_FIRST, len(self._reference) // 2), _BLOCK))):
            yield from self._judge(block)

    def _judge(self, prompts: list[str]) -> list[Verdict]:
        verdicts = {}
        left = []
        for i, prompt in enumerate(prompts):
            if len(prompt.split()) > self._max_words:
                verdicts[i] = Verdict("too_long")
            elif (same := self._exam_places.get(_plain(prompt))) is not None:  # also if it has no token
                verdicts[i] = Verdict("exam", self._exam_texts[same], 1.0)
            else:
                left.append(i)
        codes = [self._vocabulary.encode(prompts[i]) for i in left]

        near = self._exam.nearest(codes)
        for i, rank, f in zip(left, near.rank.tolist(), near.rouge_l.tolist(), strict=True):
            if rank >= 0:
                verdicts[i] = Verdict("exam", self._exam_texts[rank], f)
        apart = [(i, code) for i, code in zip(left, codes, strict=True) if i not in verdicts]

        near = self._reference.admit([code for _, code in apart])
        ranks = near.rank.tolist()
        self._reference_texts += [prompts[i] for (i, _), rank in zip(apart, ranks, strict=True) if rank < 0]
        for (i, _), rank, f in zip(apart, ranks, near.rouge_l.tolist(), strict=True):
            verdicts[i] = Verdict("similar", self._reference_texts[rank], f) if rank >= 0 else Verdict()
        return [verdicts[i] for i in range(len(prompts))]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def exam_filter(exam: Iterable[str]) -> DiversityFilter:
    """A filter that drops exam prompts and those near one, and nothing else."""
    return DiversityFilter(1.0, _ANY_LENGTH, exam, ())
