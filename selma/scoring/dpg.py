"""DPG-Bench's scores from saved answers, as ELLA's compute_dpg_bench.py computes them (arXiv 2403.05135).

A file of answers may be that script's own, `..._detail.txt`: a line `image, crop, question, answer` for each question
about each of the images that a prompt's grid holds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import read_text
from selma.ground.propositions import Proposition
from selma.scoring.figures import Figure, answered, known_items, macro, warn_of_wording, yes_rows
from selma.scoring.saved import Saved
from selma.scoring.scores import QuestionScore, score_answers
from selma.variants.benchmarks import dpg

Annotations = Mapping[str, Sequence[Proposition]]

# The crop stands between the image's path and the question, either of which may hold commas.
_LINE = re.compile(r"(?P<image>.+?), (?P<crop>\([0-9, ]+\)), (?P<question>.+), (?P<answer>[^,]*)")


def dpg_table(
    annotations: Annotations, answers: Sequence[Saved], figure: Figure, *, where: Path, exact: bool = False
) -> dict[str, Any]:
    """DPG-Bench's score, over all annotated prompts: the mean over prompts of the mean over their images.

    by_category (level 1) and by_detail (level 2) are means over answers, where no answer voids another, as officially.
    With `exact` the script is followed to the letter: only "yes" is yes, prompts without answers are left out, the
    file's first question is not asked, a prompt with a question that depends on none of its questions is left out, and
    categories count a prompt's last image only. Raises UserError for answers that match no prompt or no question.
    """
    there = known_items((row.item for row in answers), annotations, where)
    scope = dict(annotations)
    if exact:
        scope = {
            item: found for item, found in _as_the_script_reads(annotations, where).items() if item in there
        }
    if not scope:
        raise UserError(
            f"{where}: answers no prompt that the official script scores; --exact leaves out the first"
        )
    asked = {(item, p.id) for item, found in scope.items() for p in found}
    # The script does not ask the first question; all other answers must be to questions that there are.
    kept = [
        row for row in answers if row.item in scope and not (exact and (row.item, row.question) not in asked)
    ]
    warn_of_wording(kept, where, exact)
    scores = score_answers(dpg.items(scope), yes_rows(kept, exact=exact), where=str(where))
    broad = {p.category: p.broad for found in scope.values() for p in found}
    counted = _last_images(scores) if exact else answered(scores)
    return {
        "dpg": figure(macro(scores)),
        "no_dependency": figure(macro(scores, dependencies=False)),
        "by_category": _by(lambda score: broad[score.category], counted, figure),
        "by_detail": _by(lambda score: score.category, counted, figure),
    }


def read_detail(path: Path, annotations: Annotations) -> list[Saved]:
    """The answers in the official script's `_detail.txt`; a prompt's images are numbered as their crops appear.

    Raises UserError, naming the line, for one of another form, a question that its prompt lacks, and two answers to
    one question about one image.
    """
    numbers = {item: {p.question: p.id for p in found} for item, found in annotations.items()}
    crops: dict[str, dict[str, int]] = {}
    found: dict[tuple[str, int, str], Saved] = {}
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        here = f"{path}, line {line}"
        if (said := _LINE.fullmatch(text.strip())) is None:
            raise UserError(f"{here}: is {text[:60]!r}; it must be `image, (crop), question, answer`")
        item = re.split(r"[/\\]", said["image"])[-1].partition(".")[0]
        if item in numbers and said["question"] not in numbers[item]:
            raise UserError(f"{here}: item {item!r} has no question {said['question'][:80]!r}")
        images = crops.setdefault(item, {})
        k = images.setdefault(said["crop"], len(images))
        question = numbers.get(item, {}).get(said["question"], "")
        saved = Saved(item, k, question, said["answer"], line)
        if (before := found.setdefault((item, k, question), saved)) is not saved and question:
            raise UserError(
                f"{here}: item {item!r}, image {k}, question {question!r} is answered in line {before.line} already"
            )
    if not found:
        raise UserError(f"{path}: holds no answers")
    return list(found.values())


def _as_the_script_reads(annotations: Annotations, where: Path) -> dict[str, Sequence[Proposition]]:
    """Without the file's first question, and without prompts whose dependencies name a question that is not there."""
    first = next(iter(annotations))
    cut = {**annotations, first: annotations[first][1:]}
    gone = [
        item.id for item in dpg.items({item: found for item, found in cut.items() if found}) if item.absent
    ]
    gone += [item for item, found in cut.items() if not found]
    if gone:
        print(
            f"warning: {where}: left out {len(gone)} prompts that the official script fails on (first: {gone[0]!r})",
            file=sys.stderr,
        )
    return {item: found for item, found in cut.items() if item not in gone}


def _last_images(scores: Sequence[QuestionScore]) -> list[QuestionScore]:
    last = max(score.k for score in scores)
    return answered(score for score in scores if score.k == last)


def _by(
    key: Callable[[QuestionScore], str], scores: Sequence[QuestionScore], figure: Figure
) -> dict[str, Any]:
    """By name, the mean over answers as they are; a prompt's are drawn together by the bootstrap."""
    groups: dict[str, dict[str, list[float]]] = {}
    for score in scores:
        groups.setdefault(key(score), {}).setdefault(score.item, []).append(score.raw)
    return {
        name: figure([(sum(values), len(values)) for values in groups[name].values()])
        for name in sorted(groups)
    }
