"""People's votes about two models, for the report: what `python -m selma.rate A B --summary --json` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from selma.ground.files import read_record
from selma.ground.schema import Fraction, Index, Text, record
from selma.reporting.metrics import Interval, Share
from selma.reporting.table import percent, span


@record
class _Counts(TypedDict):
    win: Index
    tie: Index
    lose: Index


@record
class _Shares(TypedDict):
    win: Share
    tie: Share
    lose: Share


@record
class _Judge(TypedDict):
    n_prompts: Index
    same: Share | None
    n_decided: Index
    decided: Share | None


@record
class _Human(TypedDict):
    """Votes about the first of two models against the second, as rating/summary.py writes them."""

    models: Annotated[list[Text], Field(min_length=2, max_length=2)]
    benchmark: Text
    n_prompts: Index
    n_raters: Index
    votes: _Counts
    share: _Shares
    net: Interval
    decided: Share | None
    left: Fraction | None
    alpha: Annotated[float, Field(ge=-1, le=1)] | None
    judges: dict[Text, _Judge]


def read(metrics: Path) -> list[dict[str, Any]]:
    """What report.html.j2 shows of the metrics folder's human/*.json, by file name; empty where nobody voted.

    Raises UserError for a file that cannot be read or has another schema.
    """
    return [_table(read_record(path, _Human)) for path in sorted((metrics / "human").glob("*.json"))]


def _table(found: _Human) -> dict[str, Any]:
    first, second = found["models"]
    names = {"win": f"{first} better", "tie": "tie", "lose": f"{second} better"}
    return {
        "title": f"{first} against {second}, {found['benchmark']}",
        "about": f"{sum(found['votes'].values())} votes, {found['n_prompts']} prompts, raters: {found['n_raters']}",
        "rows": [
            [name, str(found["votes"][key]), percent(found["share"][key]["mean"]), span(found["share"][key])]
            for key, name in names.items()
        ],
        "decided": _of(found["decided"]),
        "alpha": "undefined" if found["alpha"] is None else f"{found['alpha']:.2f}",
        "left": "-" if found["left"] is None else f"{percent(found['left'])}%",
        "judges": [
            [name, str(one["n_prompts"]), _of(one["same"]), str(one["n_decided"]), _of(one["decided"])]
            for name, one in found["judges"].items()
        ],
    }


def _of(share: Share | None) -> str:
    return "-" if share is None else f"{percent(share['mean'])}% {span(share)}"
