"""The summary of votes as a terminal shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selma.rating.summary import FEW, OUTCOMES


def text(summary: Mapping[str, Any]) -> str:
    """Tables of the counts and of the judges, with what each means in a line."""
    from tabulate import tabulate

    plain = {"tablefmt": "simple", "disable_numparse": True}
    first, second = summary["models"]
    names = dict(zip(OUTCOMES, (f"{first} better", "tie", f"{second} better"), strict=True))
    rows = [(names[key], summary["votes"][key], *_cells(summary["share"][key])) for key in OUTCOMES]
    parts = [
        f"{first} against {second} on {summary['benchmark']}: {sum(summary['votes'].values())} votes, "
        f"{summary['n_prompts']} prompts, raters: {summary['n_raters']}",
        tabulate(
            rows,
            ["", "votes", "share, %", "95% interval"],
            colalign=("left", "right", "right", "left"),
            **plain,
        ),
        "\n".join(
            (
                f"{first} better minus {second} better: {' '.join(_cells(summary['net'], '+'))} points",
                f"{first} better, ties left out: {_of(summary['decided'])}",
                f"agreement between raters (Krippendorff's alpha, nominal): {_number(summary['alpha'])}",
                f"left picture, ties left out: {_percent(summary['left'])} (far from 50%: raters looked at sides)",
            )
        ),
    ]
    if summary["by_skill"]:
        table = [(skill, *counts.values()) for skill, counts in summary["by_skill"].items()]
        parts.append(tabulate(table, ["votes by skill", *names.values()], **plain))
    if summary["judges"]:
        table = [
            (name, one["n_prompts"], _of(one["same"]), one["n_decided"], _of(one["decided"]))
            for name, one in summary["judges"].items()
        ]
        header = ["judge", "prompts", "says the same", "both prefer one", "of these the same"]
        parts.append(tabulate(table, header, **plain))
    if summary["n_prompts"] < FEW:
        parts.append(
            f"note: {summary['n_prompts']} prompts are too few: below {FEW} the intervals are narrower than 95%"
        )
    parts.append("Shares: a prompt's raters are averaged first; bootstrap intervals over prompts.")
    return "\n\n".join(parts)


def _cells(share: Mapping[str, float], sign: str = "") -> tuple[str, str]:
    mean, low, high = (f"{100 * share[key]:{sign}.1f}" for key in ("mean", "low", "high"))
    return mean, f"[{low}, {high}]"


def _of(share: Mapping[str, float] | None) -> str:
    if share is None:
        return "-"
    mean, span = _cells(share)
    return f"{mean}% {span}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _number(value: float | None) -> str:
    return (
        "undefined: no prompt has two raters, or all votes are the same" if value is None else f"{value:.2f}"
    )
