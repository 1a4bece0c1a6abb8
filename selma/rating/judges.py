"""What judges say of the pairs that people voted on, from the answers and scores that stages have written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from selma.ground.items import load_split
from selma.rating.pairs import Models
from selma.scoring.saved import read_scores
from selma.scoring.scores import load_answers

Verdicts = dict[str, int]  # by item: 1 where the first model is better, 0 a tie, -1 where the second is


def verdicts(data: Path, models: Models, benchmark: str, judge: str) -> dict[str, Verdicts]:
    """Each judge's verdicts on the first image (k = 0) of every prompt, by the judge's name.

    `judge` is whose answers data/answers holds, compared by DSG's score of the image; the others are those of
    data/preferences, by their own scores. A judge whose files are not there for both models is left out. Raises
    UserError for a file that is malformed.
    """
    found = {}
    files = [data / "answers" / model / f"{benchmark}.jsonl" for model in models]
    if all(file.is_file() for file in files):
        found[judge] = _compared(*(_faithful(data, file, benchmark) for file in files))
    preferences = data / "preferences"
    folders = sorted(path for path in preferences.iterdir() if path.is_dir()) if preferences.is_dir() else []
    for folder in folders:
        files = [folder / model / f"{benchmark}.jsonl" for model in models]
        if all(file.is_file() for file in files):
            found[folder.name] = _compared(*(_preferred(file, folder.name) for file in files))
    return found


def _faithful(data: Path, answers: Path, benchmark: str) -> dict[str, float]:
    """DSG's score of the first image of each item that has questions."""
    items = [item for item in load_split(data / "benchmarks" / benchmark, "test") if item.questions]
    scores: dict[str, list[float]] = {}
    for score in load_answers(answers, items) if items else ():
        if score.k == 0:
            scores.setdefault(score.item, []).append(score.score)
    return {item: fmean(values) for item, values in scores.items()}


def _preferred(path: Path, judge: str) -> dict[str, float]:
    return {item: score for (item, k), score in read_scores(path, judge=judge).items() if k == 0}


def _compared(first: Mapping[str, float], second: Mapping[str, float]) -> Verdicts:
    return {
        item: (first[item] > second[item]) - (first[item] < second[item]) for item in first if item in second
    }
