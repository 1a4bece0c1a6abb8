"""What the page of policies shows besides the comparison table: learning curves, what is forgotten, what is hacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selma.ground.files import write_csv
from selma.ground.items import Item
from selma.reporting.svg import FAINT, INK, save
from selma.reporting.table import gain_text
from selma.scoring.seeds import over_seeds
from selma.scoring.summary import interval
from selma.studies.learning import Curves
from selma.studies.results import Found
from selma.studies.rows import BEST, EXAMINED, Table

COLOURS = (
    "#c05621",
    "#2b6cb0",
    "#2f855a",
    "#805ad5",
    "#b7791f",
    "#d53f8c",
    "#319795",
    "#718096",
    "#e53e3e",
    "#1a202c",
)
MANY = "count_many"  # category of questions: more of a thing than any training prompt asks for


def extra(table: Table, found: Found, curves: Curves, items: Sequence[Item], folder: Path) -> dict[str, Any]:
    """What the page's template is given; writes folder/curves.svg and curves.csv."""
    shown = {name: own for name, own in curves.items() if own and name in found}
    save(folder / "curves.svg", _figure(shown))
    rounds = [
        {"row": name, "seed": seed, **{key: f"{value:.6g}" for key, value in row.items()}}
        for name, own in shown.items()
        for seed, curve in own.items()
        for row in curve
    ]
    write_csv(folder / "curves.csv", rounds, list(dict.fromkeys(key for row in rounds for key in row)))
    return {
        "forgotten": by_group(table, found, items),
        "policies": [{"name": name, **_summary(own)} for name, own in shown.items()],
    }


def by_group(table: Table, found: Found, items: Sequence[Item]) -> dict[str, Any]:
    """Every row's gains over the base by group of prompts: `groups`, their names, and `rows`, each a name and cells."""
    groups = groups_of(items)
    rows = [name for name in found if name != table.base]
    return {
        "groups": list(groups),
        "rows": [
            {"name": name, "cells": [_said(gain) for gain in group_gains(table, found, name, groups)]}
            for name in rows
        ],
    }


@dataclass(frozen=True)
class Differing:
    """The row that scores best as examined with the first training seed, of those that have every seed; the first
    prompts of each skill on which its picture's score is another than the base's; how many are better and worse of all.
    """

    row: str
    items: Sequence[Item]
    better: int
    worse: int


def differing(table: Table, found: Found, items: Sequence[Item], per_skill: int) -> Differing:
    """What to show of the page's best row beside the base."""
    seed = table.seeds[0]
    scores = {name: own[seed].scores[EXAMINED] for name, own in found.items() if seed in own}
    learned = [name for name in scores if name not in (table.base, table.selma)]
    learned = [
        name for name in learned if len(found[name]) == len(table.seeds)
    ] or learned  # what carries a claim
    best = max(learned, key=lambda name: np.mean(list(scores[name].values())))
    gaps = {item: scores[best][item] - scores[table.base][item] for item in scores[best]}
    by_skill: dict[str, list[Item]] = {}
    for item in items:
        if gaps.get(item.id):
            by_skill.setdefault(item.skill, []).append(item)
    shown = [group[i] for i in range(per_skill) for group in by_skill.values() if i < len(group)]
    return Differing(
        best, shown, sum(gap > 0 for gap in gaps.values()), sum(gap < 0 for gap in gaps.values())
    )


def groups_of(items: Sequence[Item]) -> dict[str, list[str]]:
    """Items' ids by skill; those that ask for more of a thing than training prompts do are a group of their own."""
    many = {item.id for item in items if any(question.category == MANY for question in item.questions)}
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault("counts of four and five" if item.id in many else item.skill, []).append(item.id)
    return groups


def group_gains(
    table: Table, found: Found, name: str, groups: Mapping[str, Sequence[str]], point: str = BEST
) -> list[dict[str, float]]:
    """The gain over the base, 0 to 1, of each group of prompts at a point: mean, and where there are several seeds and
    prompts low and high of its 95% interval; of a group that has no prompts nothing."""
    seeds = [seed for seed in found[name] if seed in found[table.base]]
    gains: list[dict[str, float]] = []
    for ids in groups.values():
        mine, base = (
            np.array([[found[row][seed].scores[point].get(id, np.nan) for id in ids] for seed in seeds])
            for row in (name, table.base)
        )
        gap = mine - base
        gap = gap[:, ~np.isnan(gap).any(axis=0)]  # some prompts do not count
        if gap.shape[1] < 2 or len(seeds) < 2:
            gains.append({"mean": float(gap.mean())} if gap.size else {})
        else:
            gains.append(interval(over_seeds(gap)))
    return gains


def _said(gain: Mapping[str, float]) -> str:
    if "low" not in gain:
        return f"{100 * gain['mean']:+.1f}" if gain else ""
    text = gain_text(gain, places=1)
    return f"**{text}**" if gain["low"] > 0 or gain["high"] < 0 else text


def _summary(own: Mapping[int, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """A policy's first and last rounds, means over seeds: what judges say on dev, diversity, distance."""

    def ends(key: str, first: int) -> str:
        pairs = [
            (curve[first], curve[-1]) for curve in own.values() if key in curve[first] and key in curve[-1]
        ]
        if not pairs:
            return ""
        start, end = (float(np.mean([rows[key] for rows in side])) for side in zip(*pairs, strict=True))
        return f"{start:.3f} → {end:.3f}"

    curves = list(own.values())
    judges = sorted({key for curve in curves for key in curve[0] if key.startswith("dev_")})
    return {
        "rounds": int(max(curve[-1]["round"] for curve in curves)),
        "judges": {key.removeprefix("dev_"): ends(key, 0) for key in judges},
        "diversity": ends("diversity", 1),
        "distance": f"{np.mean([curve[-1]['distance'] for curve in curves]):.4f}",
    }


def _figure(shown: Curves) -> Any:
    """Dev score of every policy against the pictures that were drawn and judged, and against seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, key in zip(panels, ("images", "seconds"), strict=True):
        for colour, (name, own) in zip(COLOURS * 3, shown.items(), strict=False):
            points = [[(row[key], row["dev"]) for row in curve if "dev" in row] for curve in own.values()]
            if (
                not all(points) or len({len(each) for each in points}) != 1
            ):  # without a judge, or stopped early
                points = [min(points, key=len)] if all(points) else []
            if points:
                x, y = np.mean(np.array(points), axis=0).T
                panel.plot(x, 100 * y, color=colour, marker="o", ms=3, lw=1.4, label=name)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color=FAINT, lw=0.3)
        panel.set_xlabel("pictures drawn and judged" if key == "images" else "seconds")
        panel.tick_params(colors=INK)
    panels[0].set_ylabel("reward on dev prompts, %")
    panels[1].legend(frameon=False, fontsize=8)
    return figure
