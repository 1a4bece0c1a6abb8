"""The report: one self-contained HTML page from the metrics files and the before/after grid.

Nothing in it names a host, a date or a duration: the same metrics give the same bytes. The page itself is
report.html.j2, beside this file, filled in with escaping on.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import read_json
from selma.ground.pairs import read_image
from selma.reporting import charts, lineage, other_tables
from selma.reporting.table import percent, verdict

TEMPLATE = Path(__file__).with_name("report.html.j2")

_SENTENCES = {
    "gain": "the interval lies above zero.",
    "loss": "the interval lies below zero: {0} is worse.",
    "none": "the interval holds zero, so no difference is claimed.",
}


def render(
    metrics: Path,
    grid: Path,
    *,
    profile: str,
    benchmark: str,
    judge: str,
    skills: Sequence[str],
    experts: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
) -> str:
    """The page's HTML from a metrics folder and a grid folder.

    `experts` names those whose loss and selection are shown, `skills` those whose filter statistics are;
    `settings` is shown as what ran, a section each. Raises UserError for a file that is missing or malformed.
    """
    import jinja2
    from markupsafe import Markup

    summary = read_json(metrics / "eval.json")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    try:
        content = {
            "n_prompts": summary["n_prompts"],
            "images_per_prompt": summary["images_per_prompt"],
            "tiles": _tiles(summary),
            "verdicts": _verdicts(summary),
            **_models(summary, lineage.read_csv(metrics / "by_skill.csv")),
            "pair_charts": _pair_charts(summary),
            "categories": _categories(summary),
            "others": other_tables.tables(read_json(metrics / "others.json")),
            "examples": [_example(example, grid) for example in read_json(grid / "examples.json")],
            **lineage.read(metrics, skills, experts),
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{metrics}, {grid}: not the files of a finished run ({error!r}); run `dvc repro`"
        ) from error
    for chart in content["pair_charts"] + content["line_charts"]:
        chart["svg"] = Markup(chart["svg"])  # charts escapes what it is given
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        profile=profile,
        benchmark=benchmark,
        judge=judge,
        settings=[
            {"name": name, "rows": [(key, _plain(value)) for key, value in section.items()]}
            for name, section in settings.items()
        ],
        **content,
    )


# Scores ----------------------------------------------------------------------------------------


def _tiles(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    labels = {"base": "base", "single": "one LoRA on all skills", "merged": "merged"}
    tiles = [
        {"kind": "", "label": label, "value": percent(summary[key]["mean"]), "note": "% faithful"}
        for key, label in labels.items()
        if key in summary
    ]
    if "gain" in summary:
        gain = summary["gain"]
        kind = verdict(gain)
        interval = f"[{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]"
        value = "none" if kind == "none" else f"{100 * gain['mean']:+.2f}"
        tiles.append(
            {"kind": kind, "label": "gain over base", "value": value, "note": f"points, 95% {interval}"}
        )
    return tiles


def _verdicts(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    found = []
    for key, reference in (("gain", "the base model"), ("gain_over_single", "one LoRA on all skills")):
        if key in summary:
            kind = verdict(summary[key])
            mean, low, high = (f"{100 * summary[key][part]:+.2f}" for part in ("mean", "low", "high"))
            sentence = _SENTENCES[kind].format("merged")
            text = f"Merged against {reference}: {mean} points, 95% interval {low} to {high}; {sentence}"
            found.append({"kind": kind, "text": text})
    return found


def _models(summary: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Every model's row of scores: over all prompts, and by skill."""
    means = {"base": summary.get("base"), "merged": summary.get("merged"), "all": summary.get("single")}
    means.update(summary.get("expert", {}))
    labels = {
        "all": "one LoRA on all skills",
        **{name: f"expert: {name}" for name in summary.get("expert", {})},
    }
    skills = list(dict.fromkeys(row["skill"] for row in rows))
    scores = {(row["model"], row["skill"]): float(row["score"]) for row in rows}
    models = [
        {
            "label": labels.get(name, name),
            "strong": name == "merged",
            "mean": percent(means[name]["mean"]) if means.get(name) else "",
            "cells": [percent(scores[name, skill]) for skill in skills],
        }
        for name in dict.fromkeys(row["model"] for row in rows)
    ]
    return {"skills": skills, "models": models}


def _pair_charts(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    found = []
    for key, title in (("skill", "By skill, %"), ("category", "By kind of question, %")):
        if key in summary:
            rows = [(name, 100 * row["base"], 100 * row["merged"]) for name, row in summary[key].items()]
            found.append({"title": title, "svg": charts.pair_chart(rows, title)})
    return found


def _categories(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "base": percent(row["base"]),
            "merged": percent(row["merged"]),
            "gain": f"{100 * row['gain']:+.2f}",
            "kind": "up" if row["gain"] > 0 else "down" if row["gain"] < 0 else "",
        }
        for name, row in summary.get("category", {}).items()
    ]


# Pictures --------------------------------------------------------------------------------------


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
    if question["scores"][model]:
        kind, mark = "ok", "\u2713"
    elif said == question["expected"]:
        kind, mark = "void", "\u2205"
    else:
        kind, mark = "wrong", "\u2717"
    return {"kind": kind, "mark": mark, "text": said or "no answer"}


def _data_uri(path: Path) -> str:
    """The picture as a data URI; read and written anew, so that a truncated file is an error here."""
    buffer = BytesIO()
    read_image(path).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plain(value: Any) -> str:
    """A setting as params.yaml writes it, or nearly."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value)
