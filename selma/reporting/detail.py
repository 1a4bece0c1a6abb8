"""The parts of the page that are read from data/ and not from metrics/: pictures, answers, and gains by their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.ground.files import read_jsonl
from selma.judging.kept import tokens_of
from selma.reporting import explorer, gallery, picked
from selma.reporting.table import percent, span
from selma.scoring.bootstrap import Interval
from selma.scoring.parts import kind_gains, skill_gains
from selma.scoring.scores import QuestionScore, by_category, by_skill
from selma.scoring.summary import interval


def read(
    data: Path,
    benchmark: str,
    models: Sequence[str],
    pairs: Sequence[Sequence[str]],
    skills: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """What report.html.j2 shows of the leading benchmark's images and answers, and of the training images.

    `pairs` are (after, before), the leading one first. Raises UserError for a file that is missing or malformed.
    """
    run = explorer.examined(data, benchmark, models)
    answers = [row for model in models for row in read_jsonl(data / "answers" / model / f"{benchmark}.jsonl")]
    options = {"resamples": resamples, "seed": seed}
    return {
        "pairs": [_compared(run.scores, pair, **options) for pair in pairs],
        "picked": picked.wins_and_losses(run, pairs[0]),
        "explorer": explorer.content(run, seed),
        "gallery": gallery.trained_on(data / "images", skills, seed),
        "answers": len(answers),
        "tokens": tokens_of(answers),
    }


def _compared(
    scores: Mapping[str, Sequence[QuestionScore]], pair: Sequence[str], **options: int
) -> dict[str, Any]:
    """The gains of a pair by skill and by kind of question, and how many intervals that are."""
    after, before = (scores[name] for name in pair)
    parts = [
        _table("skill", by_skill(before), by_skill(after), skill_gains(before, after, **options)),
        _table(
            "kind of question",
            by_category(before),
            by_category(after),
            kind_gains(before, after, **options),
        ),
    ]
    return {"names": pair, "parts": parts, "intervals": sum(len(part["rows"]) for part in parts)}


def _table(
    title: str, before: Mapping[str, float], after: Mapping[str, float], gains: Mapping[str, Interval]
) -> dict[str, Any]:
    """A table of gains: a row for each part, with the scores of both models and the interval."""
    rows = []
    for name, gain in gains.items():
        found = interval(gain)
        kind = "up" if found["low"] > 0 else "down" if found["high"] < 0 else ""
        rows.append(
            {
                "name": name,
                "before": percent(before[name]),
                "after": percent(after[name]),
                "gain": f"{100 * found['mean']:+.2f}",
                "span": span(found, sign="+"),
                "kind": kind,
            }
        )
    return {"title": title, "rows": rows}
