"""Several runs side by side on one page: what differs in their settings, their scores and gains, their pictures.

Every run is examined on the same prompts, so that what they differ by is paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selma.ground.errors import UserError
from selma.reporting import explorer
from selma.reporting.explorer import Examined
from selma.reporting.pages import script, search, template
from selma.reporting.table import gain_text, percent, span, verdict
from selma.runtime.facts import flatten
from selma.scoring.bootstrap import bootstrap_gain
from selma.scoring.scores import item_scores
from selma.scoring.summary import interval

TEMPLATE = "runs.html.j2"


@dataclass(frozen=True)
class Run:
    """A run: its name, its commit ("" for the files that lie here), params.yaml, metrics/eval.json, and what it drew.

    `examined` holds the leading pair's models alone, `pair` is (after, before). `committed` and `began` are times as
    the page shows them, "" where they are unknown; `seconds` those of each stage that ran, as far as MLflow knows them.
    """

    name: str
    commit: str
    params: Mapping[str, Any]
    summary: Mapping[str, Any]
    examined: Examined
    pair: tuple[str, str]
    committed: str = ""
    began: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    report: str = ""


def render(runs: Sequence[Run], *, resamples: int, seed: int) -> str:
    """The page's HTML. Raises UserError for runs that were not examined alike."""
    first = runs[0]
    for run in runs[1:]:
        _check_alike(first, run)
    rows = [_row(first, run, resamples, seed) for run in runs]
    return template(TEMPLATE).render(
        runs=rows,
        first=first.name,
        benchmark=first.summary["benchmark"],
        judge=first.summary["judge"],
        drawing=first.summary["drawing"],
        n_prompts=first.summary["n_prompts"],
        images_per_prompt=first.summary["images_per_prompt"],
        settings=differing(runs),
        times=_times(runs),
        reports=[run for run in runs if run.report],
        unreported=[run.name for run in runs if not run.report],
        reports_script=script("runs.js"),
        **search(explorer.content(_together(runs), seed)),
    )


def differing(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The settings of params.yaml in which runs differ, a cell for each; a key that a run lacks is "-"."""
    flat = [flatten(run.params) for run in runs]
    keys = dict.fromkeys(key for params in flat for key in params)
    return [
        {"key": key, "cells": [str(params.get(key, "-")) for params in flat]}
        for key in keys
        if len({repr(params.get(key)) for params in flat}) > 1
    ]


def _times(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The seconds of every stage that ran in any of the runs, a cell for each."""
    stages = dict.fromkeys(stage for run in runs for stage in run.seconds)
    return [
        {
            "stage": stage,
            "cells": [f"{run.seconds[stage]:,.1f}" if stage in run.seconds else "-" for run in runs],
        }
        for stage in stages
    ]


def _check_alike(first: Run, run: Run) -> None:
    for what in ("benchmark", "judge", "drawing", "images_per_prompt"):
        if run.summary[what] != first.summary[what]:
            raise UserError(
                f"{run.name}: its {what.replace('_', ' ')} is {run.summary[what]}, that of {first.name} "
                f"{first.summary[what]}; only runs that are examined alike are compared"
            )
    if list(run.examined.items) != list(first.examined.items):
        raise UserError(
            f"{run.name}: was examined on other prompts than {first.name}; their scores do not compare"
        )


def _row(first: Run, run: Run, resamples: int, seed: int) -> dict[str, Any]:
    """A run's leading model: its score, its gain over its own base, and over the first run's leading model."""
    model, own = run.pair[0], " over ".join(run.pair)
    gain = run.summary["gains"][own]
    found = {
        "name": run.name,
        "commit": run.commit[:10],
        "committed": run.committed,
        "began": run.began,
        "ran": f"{len(run.seconds)}, {sum(run.seconds.values()):,.0f} s" if run.seconds else "",
        "model": model,
        "mean": percent(run.summary["models"][model]["mean"]),
        "span": span(run.summary["models"][model]),
        "over": own,
        "gain": gain_text(gain),
        "kind": {"gain": "up", "loss": "down"}.get(verdict(gain), ""),
        "against": "",
        "against_kind": "",
    }
    if run is not first:
        before, after = (item_scores(r.examined.scores[r.pair[0]]) for r in (first, run))
        against = interval(
            bootstrap_gain(
                list(before.values()), [after[item] for item in before], resamples=resamples, seed=seed
            )
        )
        found |= {
            "against": gain_text(against),
            "against_kind": {"gain": "up", "loss": "down"}.get(verdict(against), ""),
        }
    return found


def _together(runs: Sequence[Run]) -> Examined:
    """All runs' leading models as if they were of one run, after the first run's base."""
    first = runs[0]
    before = first.pair[1]
    scores = {before: first.examined.scores[before]}
    files = {before: first.examined.files[before]}
    for run in runs:
        name = f"{run.name}: {run.pair[0]}"
        scores[name], files[name] = run.examined.scores[run.pair[0]], run.examined.files[run.pair[0]]
    return Examined(first.examined.items, scores, files)
