"""The short table of a run, from metrics/eval.json; in percent, with all of its four places."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

EVAL = Path("metrics/eval.json")
GAINS = (("gain", "gain of merged over base"), ("gain_over_single", "gain of merged over one LoRA"))


def percent(score: float) -> str:
    """0.6543 -> "65.43"."""
    return f"{100 * score:.2f}"


def verdict(gain: Mapping[str, float]) -> str:
    """ "gain", "loss" or "none": a difference whose 95% interval holds 0 is none."""
    if gain["low"] > 0:
        return "gain"
    return "loss" if gain["high"] < 0 else "none"


def gain_text(gain: Mapping[str, float], scale: float = 100, places: int = 2) -> str:
    """A gain with its interval, e.g. "+2.10 [+0.50, +3.70]", or "none (...)" around it; by default in points."""
    mean, low, high = (f"{scale * gain[key]:+.{places}f}" for key in ("mean", "low", "high"))
    text = f"{mean} [{low}, {high}]"
    return f"none ({text})" if verdict(gain) == "none" else text


def rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, value) from the contents of metrics/eval.json; what was not measured has no row."""
    found = []
    if "base" in summary:
        found.append(("base", percent(summary["base"]["mean"])))
    for name, scores in summary.get("expert", {}).items():
        found.append((f"expert: {name}", percent(scores["mean"])))
    if "single" in summary:
        found.append(("one LoRA on all skills", percent(summary["single"]["mean"])))
    if "merged" in summary:
        found.append(("merged", percent(summary["merged"]["mean"])))
    return found + [(label, gain_text(summary[key])) for key, label in GAINS if key in summary]


def text_table(summary: Mapping[str, Any]) -> str:
    """The table for a terminal, with a line beneath that says what was measured."""
    found = rows(summary)
    width = max(len(label) for label, _ in found)
    models = [f"{label:<{width}}  {value:>6}" for label, value in found if not label.startswith("gain")]
    gains = [f"{label:<{width}}  {value:>6}" for label, value in found if label.startswith("gain")]
    rule = "-" * (width + 8)
    return "\n".join([f"{'model':<{width}}  faithful %", rule, *models, rule, *gains, _footnote(summary)])


def markdown_table(summary: Mapping[str, Any]) -> str:
    """The same table in Markdown."""
    lines = ["| model | faithfulness, % |", "|---|---|"]
    for label, value in rows(summary):
        bold = "**" if label == "merged" or label.startswith("gain of merged over base") else ""
        lines.append(f"| {bold}{label}{bold} | {bold}{value}{bold} |")
    return "\n".join([*lines, "", _footnote(summary)])


def _footnote(summary: Mapping[str, Any]) -> str:
    return (
        f"{summary['n_prompts']} test prompts x {summary['images_per_prompt']} images; gains in points with "
        "95% paired bootstrap intervals over prompts, none where the interval holds 0."
    )
