"""Further benchmarks and preference scores as the report's tables: a row per model, a column per benchmark or judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selma.reporting.table import gain_text, percent

Summaries = Mapping[str, Mapping[str, Any]]  # by column title


def tables(benchmarks: Summaries, preferences: Mapping[str, Summaries]) -> list[dict[str, Any]]:
    """Tables {title, columns, rows} of texts from metrics/benchmarks.json and metrics/preferences.json.

    An empty list where nothing was measured.
    """
    found = []
    if benchmarks:
        found.append(_table("Further benchmarks, % faithful", benchmarks, percent, gain_text))
    preferred = {
        f"{name}, {judge}": summary
        for name, judges in preferences.items()
        for judge, summary in judges.items()
    }
    if preferred:
        found.append(_table("Preference scores", preferred, _plain, _plain_gain))
    for name, summary in preferred.items():
        parts = {model: scores["skill"] for model, scores in summary["models"].items() if "skill" in scores}
        if parts:
            columns = list(next(iter(parts.values())))
            rows = [[model, *(_plain(scores[part]) for part in columns)] for model, scores in parts.items()]
            found.append(
                {"title": f"{name}, by style or skill", "columns": ["model", *columns], "rows": rows}
            )
    return found


def _table(
    title: str,
    summaries: Summaries,
    score: Callable[[float], str],
    gain: Callable[[Mapping[str, float]], str],
) -> dict[str, Any]:
    """A row for each model, and one for each compared pair."""
    first = next(iter(summaries.values()))
    means = [
        [model, *(score(summary["models"][model]["mean"]) for summary in summaries.values())]
        for model in first["models"]
    ]
    gains = [
        [pair, *(gain(summary["gains"][pair]) for summary in summaries.values())] for pair in first["gains"]
    ]
    return {"title": title, "columns": ["model", *summaries], "rows": means + gains}


def _plain(score: float) -> str:
    return f"{score:.4f}"


def _plain_gain(gain: Mapping[str, float]) -> str:
    return gain_text(gain, scale=1, places=4)
