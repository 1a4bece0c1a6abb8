"""metrics/others.json as the report's tables: further benchmarks and preference scores, and their parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selma.reporting.table import gain_text, percent

Summaries = Mapping[str, Mapping[str, Any]]  # by what a row of the table is called


def tables(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tables {title, columns, rows} of texts; none where nothing was measured."""
    scored: Summaries = found.get("benchmark", {})
    preferred = {
        f"{name}, {judge}": summary
        for name, judges in found.get("preference", {}).items()
        for judge, summary in judges.items()
    }
    return [
        *_tables("Other benchmarks, % faithful", scored, "category", "kind of question", percent, gain_text),
        *_tables("Preference scores", preferred, "skill", "skill or style", _plain, _plain_gain),
    ]


def _tables(
    title: str,
    summaries: Summaries,
    part: str,
    kind: str,
    score: Callable[[float], str],
    gain: Callable[[Mapping[str, float]], str],
) -> list[dict[str, Any]]:
    """A row for each summary, and beneath it base beside merged in each of its parts."""
    if not summaries:
        return []
    experts = list(next(iter(summaries.values()))["expert"])
    columns = ["", "base", *experts, "one LoRA", "merged", "gain over base", "gain over one LoRA"]

    def mean(scores: Mapping[str, float] | None) -> str:
        return score(scores["mean"]) if scores else ""

    def row(name: str, summary: Mapping[str, Any]) -> list[str]:
        means = [summary.get("base"), *(summary["expert"].get(name) for name in experts)]
        means += [summary.get("single"), summary.get("merged")]
        gains = [summary.get("gain"), summary.get("gain_over_single")]
        return [name, *map(mean, means), *(gain(value) if value else "" for value in gains)]

    rows = [row(name, summary) for name, summary in summaries.items()]
    parts = [
        {
            "title": f"{name}: base against merged",
            "columns": [kind, "base", "merged", "difference"],
            "rows": _part_rows(summary[part], score),
        }
        for name, summary in summaries.items()
        if len(summary.get(part, ())) > 1
    ]
    return [{"title": title, "columns": columns, "rows": rows}, *parts]


def _part_rows(parts: Summaries, score: Callable[[float], str]) -> list[Sequence[str]]:
    return [
        (
            name,
            score(row["base"]),
            score(row["merged"]),
            f"{'+' if row['gain'] >= 0 else ''}{score(row['gain'])}",
        )
        for name, row in parts.items()
    ]


def _plain(score: float) -> str:
    return f"{score:.4f}"


def _plain_gain(gain: Mapping[str, float]) -> str:
    return gain_text(gain, scale=1, places=4)
