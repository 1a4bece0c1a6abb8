"""The comparison table as pages, docs/ablations.md and its siblings, and their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from selma.ground.files import write_text
from selma.reporting.svg import FAINT, INK, save
from selma.reporting.table import gain_text
from selma.studies.results import Found, against, curve_rows, gain, sentence
from selma.studies.rows import BEST, EXAMINED, POINTS, Table

TITLES = {
    EXAMINED: "At the examined guidance",
    BEST: "Each model at its own best guidance",
}
HEADINGS = {
    "ablations": "The comparison table",
    "selfimprove": "Models that learn from a judge: the results",
    "longer": "Learning for longer: the results",
    "trained": "Trained otherwise: the results",
    "stronger": "Weak to strong: the results",
    "asked": "A multimodal model that judges itself: the results",
    "features": "Continuous features, KC-DPO: the results",
}
COMMANDS = {page: f"make {page}" for page in HEADINGS} | {"asked": "make silmm", "features": "make kc-dpo"}
_COLUMNS = 5  # of panels
COLOURS = ("#c05621", "#2b6cb0")


def write_page(
    docs: Path,
    table: Table,
    found: Found,
    rows: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> None:
    """Write docs/<page>.md and its figures; `rows` are those of metrics/ablations.csv.

    `facts` say which page, whether the rows that its gains are over stand on another page, too (again), what the scores
    were measured by: prompts, left_out, dev_prompts, judge, drawing, examined, machine, and which images were chosen
    (chosen: lines of choices.py). `extra` is what the page of policies shows besides (learned.py), empty for others.
    """
    name = facts["page"]
    names = list(found)
    by_point = {point: [row for row in rows if row["point"] == point] for point in POINTS}
    environment = Environment(loader=PackageLoader("selma", "reporting"), undefined=StrictUndefined)
    text = environment.get_template("ablations.md.j2").render(
        **facts,
        seeds=len(table.seeds),
        first_seed=table.seeds[0],
        images="one image" if table.images == 1 else f"{table.images} images",
        total=f"{facts['prompts'] * table.images * len(table.seeds):,}",
        scales=", ".join(f"{scale:g}" for scale in sorted({*table.scales, float(facts["examined"])})),
        reading=table.reading.get(name, ""),
        title=HEADINGS[name],
        command=COMMANDS[name],
        learned=extra,
        benchmark=table.benchmark,
        free=gain_text(gain(found, table.base, table.base, BEST, EXAMINED), places=1),
        lone=", ".join(name for name in names if len(found[name]) == 1),
        fewer=", ".join(name for name in names if 1 < len(found[name]) < len(table.seeds)),
        base=table.base,
        said={name: table.rows[name].desc for name in (table.base, table.selma)},
        selma=table.selma,
        titles=TITLES,
        rows=names,
        tables={point: [_row(table, row) for row in found_rows] for point, found_rows in by_point.items()},
        claims=[
            {"name": name, "point": point, "text": text}
            for name in names
            for point in POINTS
            if (text := sentence(name, table.rows[name], found, point))
        ],
        others=[
            {"name": name, "text": against(table, found, name)}
            for name in names
            if table.rows[name].claim is None and name not in (table.base, table.selma)
        ],
        costs=[_costs(*pair) for pair in zip(by_point[EXAMINED], by_point[BEST], strict=True)],
    )
    write_text(docs / f"{name}.md", text)
    figures = docs / name
    save(figures / "gains.svg", _gains(by_point))
    save(figures / "guidance.svg", _curves(table, found))


def _row(table: Table, row: Mapping[str, Any]) -> dict[str, str]:
    def estimate(mean: str, low: str, high: str) -> str:
        found = {"mean": row[mean], "low": row[low], "high": row[high]}
        text = gain_text(found, places=1)
        return f"**{text}**" if found["low"] > 0 or found["high"] < 0 else text

    name = row["row"]
    return {
        "name": name,
        "desc": table.rows[name].desc,
        "guidance": row["guidance"].replace(" ", ", "),
        "score": f"{100 * row['score']:.1f}",
        "over_base": "" if name == table.base else estimate("gain", "low", "high"),
        "over_selma": ""
        if name == table.selma
        else estimate("gain_over_selma", "low_over_selma", "high_over_selma"),
        "paper": row["paper"],
    }


def _costs(examined: Mapping[str, Any], best: Mapping[str, Any]) -> dict[str, str]:
    keys = ("steps", "images", "judge_calls", "seconds")
    return {
        "name": examined["row"],
        **{key: f"{examined[key]:,}" for key in keys},
        **{f"best_{key}": f"{best[key]:,}" for key in keys[1:]},
    }


def _gains(by_point: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """A dot and a line for every row's gain over the base, at each point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.32 * len(by_point[EXAMINED])), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color=FAINT, lw=0.3)
    for n, (point, rows) in enumerate(by_point.items()):
        places = [i + (n - 0.5) * 0.3 for i in range(len(rows))]
        means = [100 * row["gain"] for row in rows]
        spans = [
            [100 * (row["gain"] - row["low"]) for row in rows],
            [100 * (row["high"] - row["gain"]) for row in rows],
        ]
        axes.errorbar(means, places, xerr=spans, fmt="o", ms=4, lw=1.4, color=COLOURS[n], label=point)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(by_point[EXAMINED])), [row["row"] for row in by_point[EXAMINED]])
    axes.invert_yaxis()
    axes.set_xlabel("gain over the base, points, 95% interval over seeds and prompts")
    axes.legend(frameon=False, loc="lower right")
    return figure


def _curves(table: Table, found: Found) -> Any:
    """A panel for each row: its dev score minus the base's at the same guidance, SELMA's merge in grey behind it."""
    from matplotlib.figure import Figure

    names = [name for name in found if name != table.base]
    curves: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in found}
    for row in curve_rows(table, found):
        curves[row["row"]][0].append(row["guidance"])
        curves[row["row"]][1].append(100 * row["gain"])
    lines = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(10, 0.6 + 1.5 * lines), layout="constrained")
    panels = figure.subplots(lines, _COLUMNS, sharex=True, sharey=True, squeeze=False).flatten()
    for panel, name in zip(panels, names, strict=False):
        panel.plot(*curves[table.selma], color=FAINT, lw=1)
        panel.plot(*curves[name], color=COLOURS[1], marker="o", ms=3, lw=1.4)
        panel.axhline(0, color=INK, lw=0.6)
        panel.set_title(name, fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    figure.supxlabel("guidance", fontsize=9)
    figure.supylabel("dev score minus the base's, points", fontsize=9)
    return figure
