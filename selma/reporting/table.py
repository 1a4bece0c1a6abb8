"""The short table of a run, from metrics/eval.json: every model's faithfulness and every compared pair's gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A single run's interval says nothing about the next seed or processor, so no table of one run gives a verdict.
ONE_RUN = (
    "This run, prompts only: 95% bootstrap intervals over prompts, paired for gains. Another seed or processor moves\n"
    "a gain by as much; what holds over training seeds is a study's to say: python -m selma.experiments seeds."
)


def percent(score: float) -> str:
    """0.6543 -> "65.43"."""
    return f"{100 * score:.2f}"


def span(estimate: Mapping[str, float], scale: float = 100, places: int = 2, sign: str = "") -> str:
    """An interval, "[63.1, 67.9]"; `sign` "+" writes plus signs, too."""
    return f"[{scale * estimate['low']:{sign}.{places}f}, {scale * estimate['high']:{sign}.{places}f}]"


def verdict(gain: Mapping[str, float]) -> str:
    """ "gain", "loss" or "none": a difference whose 95% interval includes 0 is "none"."""
    if gain["low"] > 0:
        return "gain"
    return "loss" if gain["high"] < 0 else "none"


def gain_text(gain: Mapping[str, float], scale: float = 100, places: int = 2) -> str:
    """A gain with its interval, "+2.10 [+0.50, +3.70]"; by default in points."""
    return f"{scale * gain['mean']:+.{places}f} {span(gain, scale, places, '+')}"


def text_table(summary: Mapping[str, Any]) -> str:
    """The table for a terminal, with a line beneath that says what was measured."""
    from tabulate import tabulate

    models = [(name, percent(found["mean"]), span(found)) for name, found in summary["models"].items()]
    gains = [(name, gain_text(gain)) for name, gain in summary["gains"].items()]
    plain = {"tablefmt": "simple", "disable_numparse": True}
    return "\n\n".join(
        [
            tabulate(
                models, ["model", "faithful, %", "95% interval"], colalign=("left", "right", "left"), **plain
            ),
            tabulate(gains, ["compared", "gain, points"], **plain),
            footnote(summary),
        ]
    )


def markdown_table(summary: Mapping[str, Any]) -> str:
    """The same in Markdown; the leading pair's gain, and the model that has it, are bold."""
    from tabulate import tabulate

    lead = next(iter(summary["gains"]), "")
    best = lead.partition(" over ")[0]

    def bold(cells: tuple[str, ...], strong: bool) -> list[str]:
        return [f"**{cell}**" if strong else cell for cell in cells]

    models = [
        bold((name, percent(found["mean"]), span(found)), name == best)
        for name, found in summary["models"].items()
    ]
    gains = [
        bold((f"{name}, points", *gain_cells(gain)), name == lead) for name, gain in summary["gains"].items()
    ]
    table = tabulate(
        models + gains, ["model", "faithfulness, %", "95% interval"], tablefmt="github", disable_numparse=True
    )
    return f"{table}\n\n{footnote(summary)}"


def gain_cells(gain: Mapping[str, float]) -> tuple[str, str]:
    """A gain in points and its interval, as two cells."""
    return f"{100 * gain['mean']:+.2f}", span(gain, sign="+")


def footnote(summary: Mapping[str, Any]) -> str:
    """What was measured, and how it was drawn."""
    drawing = summary["drawing"]
    size = f", {drawing['resolution']} px" if drawing["resolution"] else ""
    return (
        f"Benchmark {summary['benchmark']}, judge {summary['judge']}: {summary['n_prompts']} test prompts x "
        f"{summary['images_per_prompt']} images, {drawing['scheduler']}, {drawing['steps']} steps, "
        f"guidance {drawing['guidance']:g}{size}.\n{ONE_RUN}"
    )
