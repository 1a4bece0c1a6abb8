"""What the files say that the tables and the report show: a schema for each, so that no odd value is shown as a result.

Metrics files lie in git and are merged by people; data/grid/examples is pulled from a remote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from selma.ground.errors import UserError
from selma.ground.files import number, read_csv, read_record
from selma.ground.schema import Count, FileName, Fraction, Index, Text, record

EVAL = Path("metrics/eval.json")
Bounded = Annotated[float, Field(ge=-1e9, le=1e9)]  # a figure that a chart has room for
ByStep = dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Bounded]
Parts = dict[str, dict[str, float]]  # by model: scores by skill, or by kind of question


@record
class Interval(TypedDict):
    """A score or gain with its 95% interval."""

    mean: Bounded
    low: Bounded
    high: Bounded


@record
class Share(TypedDict):
    """A model's faithfulness with its interval, 0 to 1."""

    mean: Fraction
    low: Fraction
    high: Fraction


@record
class Score(Interval):
    """A model's preference score, on the judge's own scale; `skill` holds it by skill or style."""

    skill: NotRequired[dict[Text, Bounded]]


@record
class Preferred(TypedDict):
    """One judge's scores on one benchmark, as scoring/summary.py writes them."""

    models: Annotated[dict[Text, Score], Field(min_length=1)]
    gains: dict[Text, Interval]


@record
class Measured(TypedDict):
    """One benchmark's answers, as scoring/summary.py summarises them."""

    models: Annotated[dict[Text, Share], Field(min_length=1)]
    gains: dict[Text, Interval]


@record
class Drawing(TypedDict):
    """How the images were drawn."""

    scheduler: Text
    steps: Count
    guidance: Bounded
    resolution: Count | None


@record
class Summary(Measured):
    """metrics/eval.json."""

    benchmark: Text
    judge: Text
    n_prompts: Count
    images_per_prompt: Count
    drawing: Drawing


@record
class Selection(TypedDict):
    """metrics/select/<expert>.json; `scores` and their `noise` by step."""

    policy: Text
    chosen: Index
    scores: ByStep
    noise: NotRequired[ByStep]


@record
class Merge(TypedDict):
    """metrics/merge/<merge>.json; `cosine` by "<expert>|<expert>"."""

    operator: Text
    experts: Annotated[list[Text], Field(min_length=1)]
    rank: Count
    cosine: dict[Text, Bounded]


@record
class Policy(TypedDict):
    """metrics/policy/<policy>.json; dev `scores` and their `noise` by round, and why it stopped early, if it did."""

    algorithm: Text
    images: Count
    chosen: Index
    scores: ByStep
    noise: NotRequired[ByStep]
    stopped: Text | None


@record
class Filter(TypedDict):
    """metrics/filter/<skill>.json; `dropped` by reason."""

    candidates: Index
    kept: Index
    dropped: dict[Text, Index]
    unused: NotRequired[Index]
    dev: NotRequired[Index]
    unicode_tokens: NotRequired[Index]


@record
class _Question(TypedDict):
    question: Text
    expected: Text
    answers: dict[Text, str | None]
    scores: dict[Text, Fraction]


@record
class Example(TypedDict):
    """An entry of data/grid/examples/examples.json: images, answers and scores by model."""

    skill: Text
    prompt: Text
    images: dict[Text, FileName]
    questions: list[_Question]


Benchmarks = dict[Text, Measured]  # metrics/benchmarks.json
Preferences = dict[Text, dict[Text, Preferred]]  # metrics/preferences.json, by benchmark and judge
Examples = list[Example]


def read_summary(path: Path = EVAL) -> dict[str, Any]:
    """metrics/eval.json; raises UserError where it is missing or not from a finished run."""
    summary = read_record(path, Summary)
    for name in summary["gains"]:
        if missing := [model for model in name.split(" over ") if model not in summary["models"]]:
            raise UserError(f"{path}: gains has {name!r}, but models has no {missing[0]!r}; run `dvc repro`")
    return summary


def read_parts(path: Path, part: str) -> Parts:
    """The rows (model, `part`, score) of by_skill.csv or by_category.csv."""
    found: Parts = {}
    for row in read_csv(path, ("model", part, "score")):
        model, name = row.cells["model"].strip(), row.cells[part].strip()
        if not model or not name:
            raise UserError(f"{path}, line {row.line}: model and {part} are needed; one is empty")
        if name in found.setdefault(model, {}):
            raise UserError(f"{path}, line {row.line}: {model}, {name} is there twice")
        found[model][name] = score = number(path, row, "score")
        if not 0 <= score <= 1:
            raise UserError(f"{path}, line {row.line}: score is {score:g}; it must be from 0 to 1")
    return found
