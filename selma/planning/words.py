"""A plan in words and in JSON: a table by kind of stage, and what to know about it."""

from __future__ import annotations

import dataclasses
from typing import Any

from tabulate import tabulate

from selma.planning.measured import HERE
from selma.planning.plan import Plan, Sum

COLUMNS = ("stage", "stages", "images", "steps", "LLM calls", "questions", "disk", "time")
SHOWN = 4  # reasons that are spelled out


def text(plan: Plan) -> str:
    """What a person reads."""
    lines = [_head(plan)]
    if plan.lines:
        rows = [_row(kind, found) for kind, found in plan.by_kind().items()]
        rows.append(_row("all", plan.sum()))
        right = ("left", *["right"] * (len(COLUMNS) - 1))
        lines += ["", tabulate(rows, COLUMNS, colalign=right, disable_numparse=True), ""]
        lines += [line for line in (_why(plan), _times(plan), _left_out(plan), _caveats(plan)) if line]
    if plan.pull:
        told = _count(len(plan.pull), "stage is", "stages are")
        lines.append(
            f"{told} as committed, with outs that are not here: `dvc pull -r starter` brings them. `dvc repro` alone "
            "makes them again, pretraining apart, which is not counted."
        )
    return "\n".join(lines)


def data(plan: Plan) -> dict[str, Any]:
    """What a program reads: seconds and bytes are null where they are not known."""
    return {
        "profile": plan.profile,
        "all": plan.whole,
        "stages": [
            {
                "name": line.name,
                "why": line.why,
                **_amounts(line.work),
                "bytes": None if line.size is None else round(line.size),
                "bytes_are_a_bound": line.bound,
                "seconds": None
                if line.estimate.seconds is None
                else round(line.estimate.seconds + plan.between, 1),
                "rates_of": line.estimate.machine or None,
                "not_timed": line.estimate.without or (None if line.estimate.machine else "all"),
                "not_counted": list(line.work.unknown),
            }
            for line in plan.lines
        ],
        "kinds": {kind: dataclasses.asdict(found) for kind, found in plan.by_kind().items()},
        "total": dataclasses.asdict(plan.sum()),
        "as_committed": list(plan.pull),
        "rates_of": plan.machines,
    }


def _amounts(work: object) -> dict[str, int]:
    return {name: getattr(work, name) for name in ("images", "steps", "requests", "questions")}


def _head(plan: Plan) -> str:
    if plan.whole:
        return f"Profile {plan.profile}, as if nothing had been made: {_count(len(plan.lines), 'stage')}."
    if not plan.lines:
        return f"Profile {plan.profile}: nothing to do; all {plan.known} stages are as dvc.lock says."
    return f"Profile {plan.profile}: `dvc repro` would run at most {len(plan.lines)} of {plan.known} stages."


def _row(kind: str, found: Sum) -> list[str]:
    amounts = (found.stages, found.images, found.steps, found.requests, found.questions)
    return [kind, *(f"{number:,}" if number else "" for number in amounts), _disk(found), _time(found)]


def _disk(found: Sum) -> str:
    if not found.sized:
        return "?"
    return f"{'≤ ' if found.bound else ''}{size(found.size)}{' + ?' if found.sized < found.stages else ''}"


def _time(found: Sum) -> str:
    if not found.timed:
        return "not timed"
    return duration(found.seconds) + (" + ?" if found.timed < found.stages or found.partly else "")


def size(number: float) -> str:
    """Bytes as GB, from a tenth on; less as MB, and less than a tenth of that as 0."""
    if number >= 1e8:
        return f"{number / 1e9:,.1f} GB"
    return f"{number / 1e6:.1f} MB" if number >= 5e4 else "0 MB"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 40 s, 3 min, 2.5 h, 21 h."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 36000 else f"{seconds / 3600:,.0f} h"


def _why(plan: Plan) -> str:
    """Where the wave begins."""
    reasons: dict[str, list[str]] = {}
    for line in plan.lines:
        if line.why:
            reasons.setdefault(line.why, []).append(line.name)
    if not reasons:
        return ""
    said = [
        f"{why} ({names[0]}{f' and {len(names) - 1} more' if names[1:] else ''})"
        for why, names in sorted(reasons.items(), key=lambda each: -len(each[1]))[:SHOWN]
    ]
    more = f", and {_count(len(reasons) - SHOWN, 'other reason')}" if len(reasons) > SHOWN else ""
    after = len(plan.lines) - sum(map(len, reasons.values()))
    come = f" {_count(after, 'stage comes', 'stages come')} after those." if after else ""
    return f"Why: {', '.join(said)}{more}.{come}"


def _times(plan: Plan) -> str:
    """Whose rates the hours are of."""
    others = [name for name in plan.machines if name != HERE]
    if not others:
        return "Time: by what these stages took here before, DVC's own included." if plan.machines else ""
    named = "; ".join(others)
    if HERE in plan.machines:
        return f"Time: by what stages took here before; of what has not run here, rates of {named}."
    return f"Time: rates of {named}; this machine has not run that yet."


def _left_out(plan: Plan) -> str:
    """What the hours and bytes leave out."""
    untimed = dict.fromkeys(line.kind for line in plan.lines if line.estimate.seconds is None)
    partly: dict[str, str] = {
        line.kind: line.estimate.without for line in plan.lines if line.estimate.without
    }
    unknown = dict.fromkeys(what for line in plan.lines for what in line.work.unknown)
    parts = []
    if untimed or partly:
        told = [*untimed, *(f"{what} in {kind}" for kind, what in partly.items())]
        parts.append(f"Not timed, and left out: {', '.join(told)}.")
    if unknown:
        parts.append(f"Not known, and not counted: {', '.join(unknown)}.")
    return " ".join(parts)


def _caveats(plan: Plan) -> str:
    kinds = {line.kind for line in plan.lines}
    said = [] if plan.whole else ["A stage that makes the same again spares what comes after it."]
    if "prompts" in kinds and not plan.whole:
        said.append("Prompts need as many LLM calls at least, as replies repeat themselves.")
    if plan.sum().bound:
        said.append("≤ counts 3 bytes a pixel.")
    return " ".join(said)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
