"""The figure of rounds: what each of them gains, by group of prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from selma.ground.items import Item
from selma.reporting.learned import COLOURS, group_gains, groups_of
from selma.reporting.svg import FAINT, INK
from selma.studies.results import Found
from selma.studies.rows import POINTS, Row, Table

ALL = "all prompts"
_COLUMNS = 4


def chain_of(drawers: Iterable[str], rows: Mapping[str, Row]) -> list[str]:
    """The rows whose expert drew what was judged, in the order of the drawing models."""
    return [name for drawer in drawers for name, row in rows.items() if row.expert == drawer]


def figure(table: Table, found: Found, chain: Sequence[str], items: Sequence[Item]) -> Any:
    """A panel for all prompts and for each group: the gain over the base after each round of `chain`, rows in order.

    Both points, with 95% intervals over seeds and prompts where there are several seeds.
    """
    from matplotlib.figure import Figure

    groups: Mapping[str, Sequence[str]] = {ALL: [item.id for item in items], **groups_of(items)}
    lines = -(-len(groups) // _COLUMNS)
    drawn = Figure(figsize=(10, 0.8 + 2.1 * lines), layout="constrained")
    panels = drawn.subplots(lines, _COLUMNS, sharex=True, sharey=True, squeeze=False).flatten()
    for n, point in enumerate(POINTS):
        gains = [group_gains(table, found, name, groups, point) for name in chain]
        for panel, of_rounds in zip(panels, zip(*gains, strict=True), strict=False):
            known = [(r, gain) for r, gain in enumerate(of_rounds, 1) if gain]
            means = [0.0, *(100 * gain["mean"] for _, gain in known)]
            spans = [
                [0.0, *(100 * abs(gain["mean"] - gain.get(end, gain["mean"])) for _, gain in known)]
                for end in ("low", "high")
            ]
            at = [r + (n - 0.5) * 0.12 for r in (0, *(r for r, _ in known))]
            panel.errorbar(at, means, yerr=spans, fmt="o-", ms=3, lw=1.2, color=COLOURS[n], label=point)
    for panel, title in zip(panels, groups, strict=False):
        panel.axhline(0, color=INK, lw=0.6)
        panel.grid(axis="y", color=FAINT, lw=0.3)
        panel.set_title(title, fontsize=9)
        panel.set_xticks(range(len(chain) + 1))
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(groups) :]:
        panel.set_visible(False)
    panels[0].legend(frameon=False, fontsize=8, loc="upper left")
    drawn.supxlabel("round", fontsize=9)
    drawn.supylabel("gain over the base, points", fontsize=9)
    return drawn
