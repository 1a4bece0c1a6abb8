"""What a run asked for, drew and trained, from its metrics: the costs that do not depend on the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.ground.files import number, read_csv, read_json
from selma.runtime.params import Params

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
    rows.append(("answers by the judge on the test split", f"{detail['answers']:,}", "all models"))
    return rows


def _steps(path: Path) -> int:
    """The last step of a curve, whose rows may be some of the steps only."""
    return max(int(number(path, row, "step")) for row in read_csv(path, ("step", "loss")))


def _sum(told: Sequence[Mapping[str, float]], key: str) -> str:
    return f"{sum(int(each.get(key, 0)) for each in told):,}"


def _tokens(told: Sequence[Mapping[str, float]]) -> str:
    """Tokens and money, where the server told of them."""
    parts = []
    for key, name in (("prompt_tokens", "tokens read"), ("completion_tokens", "tokens written")):
        if all(key in each for each in told):
            parts.append(f"{_sum(told, key)} {name}")
    if all("estimated_cost" in each for each in told):
        parts.append(f"about {sum(each['estimated_cost'] for each in told):.2f} in the prices of params.yaml")
    return ", ".join(parts)
