"""How the experts were made, for the report: losses, checkpoints, cosines and filter statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.ground.files import number, read_csv, read_record
from selma.reporting import charts
from selma.reporting.metrics import Filter, Merge, Selection
from selma.reporting.table import percent


def read(
    metrics: Path, skills: Sequence[str], experts: Sequence[str], merges: Sequence[str]
) -> dict[str, Any]:
    """What report.html.j2 shows of the metrics folder's loss/, select/, merge/ and filter/.

    Raises UserError for a file that cannot be read or has another schema, KeyError for names that do not fit together.
    """
    losses = {name: _curve(metrics / "loss" / f"{name}.csv") for name in experts}
    selections = {name: read_record(metrics / "select" / f"{name}.json", Selection) for name in experts}
    return {
        "line_charts": _line_charts(losses, selections),
        "selections": [_selection(name, selection) for name, selection in selections.items()],
        "merges": [_merge(name, read_record(metrics / "merge" / f"{name}.json", Merge)) for name in merges],
        "filter": _filter(
            {name: read_record(metrics / "filter" / f"{name}.json", Filter) for name in skills}
        ),
    }


def _curve(path: Path) -> list[charts.Point]:
    rows = read_csv(path, ("step", "loss"))
    return [(number(path, row, "step"), number(path, row, "loss")) for row in rows]


def _line_charts(
    losses: Mapping[str, Sequence[charts.Point]], selections: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    names = [(name, f"s{i % charts.SERIES}") for i, name in enumerate(losses)]
    thinned = {name: charts.thin(points, 25) for name, points in losses.items()}
    scores = {
        name: [(float(step), 100 * score) for step, score in selection["scores"].items()]
        for name, selection in selections.items()
    }
    drawn = (
        ("Training loss by step", charts.line_chart(thinned, "step", "loss")),
        ("Dev faithfulness of the checkpoints by step, %", charts.line_chart(scores, "step", "faithful %")),
    )
    return [{"title": title, "svg": svg, "names": names} for title, svg in drawn if svg]


def _selection(name: str, selection: Mapping[str, Any]) -> dict[str, str]:
    step, scores = str(selection["chosen"]), selection["scores"]
    noise = selection.get("noise", {})
    return {
        "name": name,
        "policy": selection["policy"],
        "chosen": step,
        "score": percent(scores[step]) if step in scores else "not scored",
        "best": percent(max(scores.values())) if scores else "",
        "noise": percent(noise[step]) if step in noise else "",
    }


def _merge(name: str, merge: Mapping[str, Any]) -> dict[str, Any]:
    cosines = {**merge["cosine"]}
    cosines.update({"|".join(reversed(pair.split("|"))): value for pair, value in merge["cosine"].items()})
    names = merge["experts"]
    rows = [
        {"name": a, "cells": ["1" if a == b else f"{cosines[f'{a}|{b}']:.3f}" for b in names]} for a in names
    ]
    return {
        "name": name,
        "experts": names,
        "operator": merge["operator"],
        "rank": merge["rank"],
        "rows": rows,
    }


def _filter(stats: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    flat = {name: _flat(numbers) for name, numbers in stats.items()}
    columns = list(dict.fromkeys(column for numbers in flat.values() for column in numbers))
    return {
        "columns": columns,
        "rows": [
            {"name": name, "cells": [numbers.get(column, "") for column in columns]}
            for name, numbers in flat.items()
        ],
    }


def _flat(numbers: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"dropped": {"similar": 3}} -> {"dropped similar": 3}."""
    found: dict[str, Any] = {}
    for key, value in numbers.items():
        name = f"{prefix} {key}".strip()
        found |= _flat(value, name) if isinstance(value, Mapping) else {name.replace("_", " "): value}
    return found
