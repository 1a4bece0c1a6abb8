"""How the models that learned from a judge were made, for the report: their curves, and what each judge said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.ground.files import Row, number, read_csv, read_record
from selma.reporting import charts
from selma.reporting.metrics import Policy

_ALWAYS = ("round", "images")  # never empty
_DEV = "dev_"  # a judge's column: what it says of the dev prompts' pictures


def read(metrics: Path, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What report.html.j2 shows of the metrics folder's policy/, for the rows of `policies`, by name; {} without rows.

    Raises UserError for a file that cannot be read or has another schema.
    """
    if not rows:
        return {}
    folder = metrics / "policy"
    curves = {name: _curve(folder / f"{name}.csv") for name in rows}
    found = {name: read_record(folder / f"{name}.json", Policy) for name in rows}
    return {
        "charts": _charts(curves),
        "rows": [_row(name, row, found[name]) for name, row in rows.items()],
        "judges": [
            judge for name, row in rows.items() for judge in _judges(name, row, found[name], curves[name])
        ],
        "stopped": [(name, one["stopped"]) for name, one in found.items() if one["stopped"]],
    }


def _curve(path: Path) -> list[dict[str, float]]:
    """The rows of metrics/policy/<name>.csv; an empty cell is no key: round 0 draws nothing to reward, and few rounds
    are examined on dev prompts."""

    def shown(row: Row) -> dict[str, float]:
        columns = [name for name in row.cells if name in (*_ALWAYS, "reward", "dev") or name.startswith(_DEV)]
        return {
            name: number(path, row, name) for name in columns if name in _ALWAYS or row.cells[name].strip()
        }

    return [shown(row) for row in read_csv(path, (*_ALWAYS, "reward"))]


def _charts(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    names = [(name, f"s{i % charts.SERIES}") for i, name in enumerate(curves)]
    drawn = []
    for title, column, at_most in (
        ("Reward of a round's pictures", "reward", 25),
        ("Dev score", "dev", 60),
    ):
        series = {
            name: charts.thin([(row["images"], row[column]) for row in curve if column in row], at_most)
            for name, curve in curves.items()
        }
        svg = charts.line_chart(series, "pictures", title.lower())
        drawn.append({"title": f"{title}, by pictures drawn and judged", "svg": svg, "names": names})
    return [chart for chart in drawn if chart["svg"]]


def _row(name: str, row: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    kept, scores, noise = str(found["chosen"]), found["scores"], found.get("noise", {})
    return {
        "name": name,
        "algorithm": found["algorithm"],
        "start": row["start"],
        "prompts": row["prompts"],
        "rewards": ", ".join(_weighted(judge, weight) for judge, weight in row["rewards"].items()),
        "images": f"{found['images']:,}",
        "kept": kept,
        "score": f"{scores[kept]:.4f}" if kept in scores else "not scored",
        "first": f"{scores['0']:.4f}" if "0" in scores else "",
        "noise": f"{noise[kept]:.4f}" if kept in noise else "",
    }


def _weighted(judge: str, weight: float) -> str:
    return judge if weight == 1 else f"{weight:g} × {judge}"


def _judges(
    name: str, row: Mapping[str, Any], found: Mapping[str, Any], curve: Sequence[Mapping[str, float]]
) -> list[dict[str, str]]:
    """What each judge says of dev prompts' pictures at the start and of the kept round's, if both were examined."""
    rounds = {int(each["round"]): each for each in curve}
    first, kept = rounds.get(0, {}), rounds.get(found["chosen"], {})
    return [
        {
            "name": name,
            "judge": column.removeprefix(_DEV),
            "part": "rewards" if column.removeprefix(_DEV) in row["rewards"] else "looks on",
            "first": f"{first[column]:.4f}",
            "kept": f"{kept[column]:.4f}",
        }
        for column in first
        if column.startswith(_DEV) and column in kept
    ]
