"""Every test prompt of a run with each model's picture and the judge's answers: the part of the page that is searched.

report.js shows it; here it is only data. A picture is the prompt's first image (k = 0), and so are its answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.items import Item, load_split
from selma.ground.pairs import read_pairs
from selma.reporting.sheets import choose
from selma.reporting.thumbnails import SIDE, strip
from selma.scoring.measure import read_benchmark
from selma.scoring.scores import QuestionScore, item_scores

MOST = 2000  # prompts; of a larger benchmark these are chosen by chance, by skill
FEW = 200  # prompts; of more the pictures are half as wide: a page of 2,000 prompts and eight models has some 20 MB
WRONG, RIGHT, VOID = 0, 1, 2

Scores = Mapping[str, Sequence[QuestionScore]]


@dataclass(frozen=True)
class Examined:
    """What models drew for a benchmark's test prompts and what its judge said: items, scores and files by model."""

    items: Sequence[Item]
    scores: Scores
    files: Mapping[str, Mapping[tuple[str, int], Path]]  # by model: (item, k) -> image

    @property
    def models(self) -> list[str]:
        return list(self.scores)


def examined(data: Path, benchmark: str, models: Sequence[str]) -> Examined:
    """Read it from data/benchmarks, data/answers and data/samples.

    Raises UserError for a file that is missing or malformed, and where a model has no image of a prompt.
    """
    items = load_split(data / "benchmarks" / benchmark, "test")
    scores = read_benchmark(data, benchmark, models)
    files = {
        model: {(pair.id, pair.k): pair.file for pair in read_pairs(data / "samples" / model / benchmark)}
        for model in models
    }
    for model, found in files.items():
        for item in items:
            if (item.id, 0) not in found:
                raise UserError(
                    f"data/samples/{model}/{benchmark}: no image of {item.id}; run the sample stage again"
                )
    return Examined(items, scores, files)


def kind_of(score: float, answer: str | None, expected: str) -> int:
    """WRONG, RIGHT, or VOID: the expected answer to a question that depends on one that is answered wrongly."""
    if score:
        return RIGHT
    return VOID if answer == expected else WRONG


def content(run: Examined, seed: int) -> dict[str, Any]:
    """The explorer's data, as JSON takes it."""
    shown = run.items
    if len(shown) > MOST:
        skills = len({item.skill for item in shown})
        chosen = {item.id for item in choose(shown, -(-MOST // skills), seed)[:MOST]}
        shown = [item for item in shown if item.id in chosen]
    side = SIDE if len(shown) <= FEW else SIDE // 2
    first = {
        model: {(score.item, score.question): score for score in scores if score.k == 0}
        for model, scores in run.scores.items()
    }
    means = {model: item_scores(scores.values()) for model, scores in first.items()}
    return {
        "models": run.models,
        "all": len(run.items),
        "items": [
            {
                "id": item.id,
                "skill": item.skill,
                "prompt": item.prompt,
                "strip": strip([run.files[model][item.id, 0] for model in run.models], side),
                "scores": [round(means[model][item.id], 4) for model in run.models],
                "questions": [
                    {
                        "text": question.text,
                        "kind": question.category,
                        "expected": question.answer,
                        "said": [
                            _said(first[model][item.id, question.id], question.answer) for model in run.models
                        ],
                    }
                    for question in item.questions
                ],
            }
            for item in shown
            if item.questions
        ],
    }


def _said(score: QuestionScore, expected: str) -> list[Any]:
    return [score.answer, kind_of(score.score, score.answer, expected)]


def as_json(value: Any) -> str:
    """JSON that no script element ends in, whatever texts it holds."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
