"""The report: one self-contained HTML page from the metrics files and the before/after grid.

Nothing in it names a host, a date or a duration: the same metrics give the same bytes. The page itself is
report.html.j2, next to this file, rendered with escaping on.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import read_record
from selma.ground.pairs import read_image
from selma.reporting import charts, human, lineage, other_tables, policies
from selma.reporting.explorer import RIGHT, VOID, WRONG, kind_of
from selma.reporting.metrics import Benchmarks, Examples, Parts, Preferences, read_parts, read_summary
from selma.reporting.pages import search, template
from selma.reporting.table import gain_cells, percent, span, verdict

TEMPLATE = "report.html.j2"

_MARKS = {WRONG: ("wrong", "\u2717"), RIGHT: ("ok", "\u2713"), VOID: ("void", "\u2205")}
_SENTENCES = {
    "gain": "in this run, over prompts, the interval lies above zero.",
    "loss": "in this run, over prompts, the interval lies below zero: {0} is worse.",
    "none": "the interval includes zero, so no difference is seen.",
}


def render(
    metrics: Path,
    grid: Path,
    *,
    profile: str,
    skills: Sequence[str],
    experts: Sequence[str],
    merges: Sequence[str],
    learned: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Mapping[str, Any]],
    detail: Mapping[str, Any] | None = None,
    ran: Sequence[Sequence[str]] = (),
    cost: Sequence[Mapping[str, str]] = (),
) -> str:
    """The page's HTML from a metrics folder and a grid folder.

    `experts` names those whose loss and selection are shown, `merges` those whose cosines, `skills` those whose filter
    statistics; `learned` holds the rows of `policies`; `settings` is shown section by section. Models and compared
    pairs are those of eval.json. `detail` is what detail.py read of the pictures and answers (None: that part of the
    page is left out), `ran` the rows of "What ran", `cost` those of "Methods by cost".
    Raises UserError for a file that is missing or malformed.
    """
    from markupsafe import Markup

    summary = read_summary(metrics / "eval.json")
    try:
        pair = next(iter(summary["gains"])).split(" over ")  # the leading one: after, before
        by_skill, by_category = (
            read_parts(metrics / f"by_{part}.csv", part) for part in ("skill", "category")
        )
        content = {
            "benchmark": summary["benchmark"],
            "judge": summary["judge"],
            "n_prompts": summary["n_prompts"],
            "images_per_prompt": summary["images_per_prompt"],
            "drawing": summary["drawing"],
            "tiles": _tiles(summary, pair),
            "verdicts": _verdicts(summary),
            **_models(summary, by_skill, pair[0]),
            "pair": pair,
            "pair_charts": _pair_charts(by_skill, by_category, pair),
            "categories": _categories(by_category, pair),
            "others": other_tables.tables(
                read_record(metrics / "benchmarks.json", Benchmarks),
                read_record(metrics / "preferences.json", Preferences),
            ),
            "human": human.read(metrics),
            "examples": [
                _example(example, grid) for example in read_record(grid / "examples.json", Examples)
            ],
            **lineage.read(metrics, skills, experts, merges),
            "learned": policies.read(metrics, learned),
            **_detail(detail),
        }
    except (
        ArithmeticError,
        KeyError,
        ValueError,
        StopIteration,
    ) as error:  # names that do not fit each other
        raise UserError(
            f"{metrics}, {grid}: not the files from a finished run ({error!r}); run `dvc repro`"
        ) from error
    for chart in content["pair_charts"] + content["line_charts"] + content["learned"].get("charts", []):
        chart["svg"] = Markup(chart["svg"])  # charts.py escapes its input
    return template(TEMPLATE).render(
        profile=profile,
        ran=ran,
        cost=cost,
        settings=[
            {"name": name, "rows": [(key, _plain(value)) for key, value in section.items()]}
            for name, section in settings.items()
        ],
        **content,
    )


# Scores ----------------------------------------------------------------------------------------


def _tiles(summary: Mapping[str, Any], pair: Sequence[str]) -> list[dict[str, str]]:
    """The leading pair's scores and gain, and every other model that is compared."""
    shown = dict.fromkeys([*reversed(pair), *(n for name in summary["gains"] for n in name.split(" over "))])
    tiles = [
        {
            "kind": "",
            "label": name,
            "value": percent(summary["models"][name]["mean"]),
            "note": f"% faithful, 95% {span(summary['models'][name])}",
        }
        for name in shown
    ]
    for name, gain in summary["gains"].items():
        value, interval = gain_cells(gain)
        note = f"points, 95% {interval}"
        tiles.append({"kind": verdict(gain), "label": f"gain, {name}", "value": value, "note": note})
    return tiles


def _verdicts(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    found = []
    for name, gain in summary["gains"].items():
        first, _, second = name.partition(" over ")
        kind = verdict(gain)
        mean, low, high = (f"{100 * gain[part]:+.2f}" for part in ("mean", "low", "high"))
        sentence = _SENTENCES[kind].format(first)
        text = f"{first} compared with {second}: {mean} points, 95% interval {low} to {high}; {sentence}"
        found.append({"kind": kind, "text": text})
    return found


def _models(summary: Mapping[str, Any], by_skill: Parts, strong: str) -> dict[str, Any]:
    """Every model's row of scores: over all prompts with its interval, and by skill."""
    skills = list(next(iter(by_skill.values())))
    models = [
        {
            "label": name,
            "strong": name == strong,
            "mean": percent(found["mean"]),
            "span": span(found),
            "cells": [percent(by_skill[name][skill]) for skill in skills],
        }
        for name, found in summary["models"].items()
    ]
    return {"skills_shown": skills, "models": models}


def _pair_charts(by_skill: Parts, by_category: Parts, pair: Sequence[str]) -> list[dict[str, str]]:
    after, before = pair
    found = []
    for title, parts in (("By skill, %", by_skill), ("By kind of question, %", by_category)):
        rows = [(name, 100 * score, 100 * parts[after][name]) for name, score in parts[before].items()]
        found.append({"title": title, "svg": charts.pair_chart(rows, title, before, after)})
    return found


def _categories(by_category: Parts, pair: Sequence[str]) -> list[dict[str, str]]:
    after, before = (by_category[name] for name in pair)
    return [
        {
            "name": name,
            "before": percent(score),
            "after": percent(after[name]),
            "gain": f"{100 * (after[name] - score):+.2f}",
            "kind": "up" if after[name] > score else "down" if after[name] < score else "",
        }
        for name, score in before.items()
    ]


# Images ----------------------------------------------------------------------------------------


def _detail(detail: Mapping[str, Any] | None) -> dict[str, Any]:
    """The page's parts that detail.py read."""
    if detail is None:
        return {"detail": None}
    return {
        "detail": detail,
        **search(detail["explorer"]),
        **{part: [_example(card, Path()) for card in cards] for part, cards in detail["picked"].items()},
    }


def _example(example: Mapping[str, Any], grid: Path) -> dict[str, Any]:
    models = list(example["images"])
    return {
        "skill": example["skill"],
        "prompt": example["prompt"],
        "pictures": [{"model": model, "uri": _data_uri(grid / example["images"][model])} for model in models],
        "questions": [
            {
                "text": question["question"],
                "expected": question["expected"],
                "answers": [_answer(question, model) for model in models],
            }
            for question in example["questions"]
        ],
    }


def _answer(question: Mapping[str, Any], model: str) -> dict[str, str]:
    said = question["answers"][model]
    kind, mark = _MARKS[kind_of(question["scores"][model], said, question["expected"])]
    return {"kind": kind, "mark": mark, "text": said or "no answer"}


def _data_uri(path: Path) -> str:
    """The image as a data URI; read and re-encoded, so that a truncated file is an error here."""
    buffer = BytesIO()
    read_image(path).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plain(value: Any) -> str:
    """A setting as params.yaml writes it, or nearly."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    return "null" if value is None else str(value)
