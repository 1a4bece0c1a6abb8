"""The prompts on which two models differ most, both ways: picked by score, and said so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selma.reporting.explorer import Examined
from selma.scoring.scores import QuestionScore, item_scores

NUMBER = 4  # of wins, and of losses


def wins_and_losses(run: Examined, pair: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Prompts by the gain of pair[0] over pair[1], as cards: `wins`, the largest gain first, and `losses`.

    A prompt's gain is over all of its images; the one that is shown is that with the largest gain, or loss, of its own.
    """
    after, before = pair
    gains = _differences(run.scores[after], run.scores[before])
    ranked = sorted(gains, key=lambda item: (-gains[item], item))
    return {
        "wins": [_card(run, pair, item, 1) for item in ranked[:NUMBER] if gains[item] > 0],
        "losses": [_card(run, pair, item, -1) for item in reversed(ranked[-NUMBER:]) if gains[item] < 0],
    }


def _differences(after: Sequence[QuestionScore], before: Sequence[QuestionScore]) -> dict[str, float]:
    first, second = item_scores(before), item_scores(after)
    return {item: second[item] - first[item] for item in first}


def _card(run: Examined, pair: Sequence[str], id: str, sign: int) -> dict[str, Any]:
    """A card as data/grid/examples/examples.json has them, with files of data/samples."""
    item = next(item for item in run.items if item.id == id)
    own = {
        model: {(s.k, s.question): s for s in run.scores[model] if s.item == id} for model in reversed(pair)
    }
    after, before = pair
    ks = sorted({k for k, _ in own[before]})
    best = max(ks, key=lambda k: (sign * (_sum(own[after], k) - _sum(own[before], k)), -k))
    return {
        "skill": item.skill,
        "prompt": item.prompt,
        "images": {model: run.files[model][id, best] for model in own},
        "questions": [
            {
                "question": question.text,
                "expected": question.answer,
                "answers": {model: found[best, question.id].answer for model, found in own.items()},
                "scores": {model: found[best, question.id].score for model, found in own.items()},
            }
            for question in item.questions
        ],
    }


def _sum(found: dict[tuple[int, str], QuestionScore], k: int) -> float:
    return sum(score.score for (image, _), score in found.items() if image == k)
