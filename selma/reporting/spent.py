"""What a run asked for, drew and trained, from its metrics: the costs that do not depend on the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.ground.files import number, read_csv, read_json
from selma.reporting.table import percent, span
from selma.runtime.params import Judge, Params
from selma.runtime.places import EXPERTS, IMAGES, MERGES, MIXTURES

Row = tuple[str, str, str]  # what, how much, where it went


def spent(metrics: Path, params: Params, detail: Mapping[str, Any]) -> list[Row]:
    """Rows (what, how much, where) for the page; `detail` is detail.py's, which counted pictures and answers."""
    rows: list[Row] = []
    for what in ("prompts", "questions"):
        told = [read_json(metrics / what / f"{skill}.json") for skill in params.skills]
        rows.append((f"LLM requests for {what}", _sum(told, "requests"), _tokens(told)))
    steps = {name: _steps(metrics / "loss" / f"{name}.csv") for name in params.experts}
    drawn = sum(part["number"] for part in detail["gallery"])
    by_name = ", ".join(f"{name} {number:,}" for name, number in steps.items())
    rows.append(("training images drawn", f"{drawn:,}", ", ".join(params.skills)))
    rows.append(("training steps", f"{sum(steps.values()):,}", by_name))
    for name, policy in params.policies.items():
        rows.append(("pictures drawn and judged", f"{policy.images:,}", name))
    judged = _tokens([_priced(detail.get("tokens", {}), params.judge)])
    where = ", ".join(filter(None, ("all models", judged)))
    rows.append(("answers by the judge on the test split", f"{detail['answers']:,}", where))
    return rows


def _steps(path: Path) -> int:
    """The last step of a curve, whose rows may be some of the steps only."""
    return max(int(number(path, row, "step")) for row in read_csv(path, ("step", "loss")))


def _sum(told: Sequence[Mapping[str, float]], key: str) -> str:
    return f"{sum(int(each.get(key, 0)) for each in told):,}"


def _priced(told: Mapping[str, float], judge: Judge) -> dict[str, float]:
    """A judge's tokens, and what they cost where both prices (per million tokens) are known."""
    if not told or judge.input_price is None or judge.output_price is None:
        return dict(told)
    paid = told["prompt_tokens"] * judge.input_price + told["completion_tokens"] * judge.output_price
    return {**told, "estimated_cost": paid / 1e6}


def _tokens(told: Sequence[Mapping[str, float]]) -> str:
    """Tokens and money, where the server told of them."""
    parts = []
    for key, name in (("prompt_tokens", "tokens read"), ("completion_tokens", "tokens written")):
        if all(key in each for each in told):
            parts.append(f"{_sum(told, key)} {name}")
    if all("estimated_cost" in each for each in told):
        parts.append(f"about {sum(each['estimated_cost'] for each in told):.2f} in the prices of params.yaml")
    return ", ".join(parts)


def by_cost(
    metrics: Path, params: Params, scores: Mapping[str, Mapping[str, float]], detail: Mapping[str, Any]
) -> list[dict[str, str]]:
    """What each row of `models` was made from, and what it scores: rows for the page, the cheapest first.

    Steps and images of everything that it was trained or merged from, each once. Images of one's own, rendered or
    picked ones are not counted: their number is not the drawing's cost.
    """
    drawn = {f"{IMAGES}/{part['skill']}": part["number"] for part in detail["gallery"]}
    rows = []
    for name, row in params.models.items():
        parts = _parts(params, Path(row.weights))
        folders = {folder for part in parts if part in params.experts for folder in _folders(params, part)}
        steps = sum(_trained(metrics, params, part) for part in parts)
        judged = sum(params.policies[part].images for part in parts if part in params.policies)
        images = sum(drawn.get(folder, 0) for folder in folders) + judged
        rows.append((steps + images, name, steps, images, judged, scores[name]))
    return [
        {
            "name": name,
            "steps": f"{steps:,}",
            "images": f"{images:,}",
            "judged": f"{judged:,}",
            "mean": percent(score["mean"]),
            "span": span(score),
        }
        for _, name, steps, images, judged, score in sorted(rows, key=lambda row: row[:2])
    ]


def _parts(params: Params, weights: Path) -> list[str]:
    """The experts, policies and mixtures that a row's weights were made from, each once."""
    found: dict[str, None] = {}
    todo = [weights]
    while todo:
        place = todo.pop()
        home, name = place.parent.as_posix(), place.name
        if home == MERGES:
            todo += [Path(EXPERTS) / one for one in params.merges[name].experts or params.skills]
        elif home in (EXPERTS, MIXTURES) and name not in found:
            found[name] = None
            if name in params.mixtures:
                todo += [Path(EXPERTS) / one for one in params.mixtures[name].experts or params.skills]
            if name in params.policies:
                todo.append(Path(params.policies[name].start))
    return list(found)


def _folders(params: Params, expert: str) -> list[str]:
    """The folders of images that an expert was trained on."""
    row = params.experts[expert]
    if row.data != IMAGES:
        return [row.data]
    return [f"{IMAGES}/{skill}" for skill in row.skills or params.skills]


def _trained(metrics: Path, params: Params, name: str) -> int:
    """Training steps: a policy's updates, or the last step of a loss curve; a LoRA of one's own took none here."""
    if name in params.policies:
        return int(read_json(metrics / "policy" / f"{name}.json").get("updates", 0))
    return (
        _steps(metrics / "loss" / f"{name}.csv") if name in params.experts or name in params.mixtures else 0
    )
