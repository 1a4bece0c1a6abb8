"""This machine's own rates, from the times that every stage writes as it ends (.work/times)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from selma.ground.errors import UserError
from selma.planning.amounts import Amounts
from selma.planning.rates import Machine, Rate
from selma.planning.work import Work
from selma.runtime import timing
from selma.runtime.dvcfile import Stage, load_stages
from selma.runtime.params import build_params
from selma.runtime.schema import load_yaml
from selma.runtime.timing import Times

HERE = "this machine"
# What stages count while they work, by the unit of Work that it is.
COUNTED = {"images": "images", "steps": "steps", "questions": "answers", "requests": "replies"}
BREAK = 60.0  # seconds between two stages of which no run of DVC's takes more: another one began
FEW = 5  # neighbours by which DVC's own time is known


def machine(root: Path) -> Machine:
    """The rates of the stages that have run here, each with the params.yaml that it ran by."""
    runs = list(_runs(root))
    kinds: dict[tuple[str, str], list[tuple[Work, Times]]] = {}
    for kind, work, times in runs:
        kinds.setdefault((kind, work.by), []).append((work, times))
    rates = [_rate(kind, by, found) for (kind, by), found in kinds.items()]
    return {
        "machine": HERE,
        "source": timing.FOLDER,
        **_between(root),
        "rates": [*rates, *_activities(kinds)],
    }


def _runs(root: Path) -> Iterator[tuple[str, Work, Times]]:
    """(kind, work, times) of every stage that has run here and says by which settings."""
    known: dict[str, tuple[Amounts, dict[str, Stage]] | None] = {}
    for file in sorted((root / timing.FOLDER).glob("*.json")):
        times = timing.read(root, file.stem)
        if times is None or "params" not in times:
            continue
        if times["params"] not in known:
            known[times["params"]] = _settings(root, times["params"])
        found = known[times["params"]]
        if found and times["stage"] in found[1]:
            amounts, stages = found
            yield times["stage"].partition("@")[0], amounts.of(stages[times["stage"]]), times


def _settings(root: Path, name: str) -> tuple[Amounts, dict[str, Stage]] | None:
    """What counts the work of stages that ran by kept settings, and the stages; None if today's code takes them for
    none."""
    file = root / timing.SETTINGS / name
    try:
        plain = load_yaml(file)
        return Amounts(build_params(plain, str(file)), root, there=()), load_stages(root, plain)
    except (UserError, OSError):
        return None


def _rate(kind: str, by: str, found: list[tuple[Work, Times]]) -> Rate:
    """One rate of several stages of a kind: what grows with their number is shared out, the rest is their mean."""
    work = found[0][0]
    whole = fmean(sum(times["seconds"].values()) for _, times in found)
    if not work.unit:
        return {"kind": kind, "by": by, "fixed": round(whole, 3)}
    numbers, seconds, worth = zip(*(_grown(*one) for one in found), strict=True)
    of = worth[0]
    total = sum(number * each / of for number, each in zip(numbers, worth, strict=True))
    each = sum(seconds) / total if total else 0.0
    fixed = max(0.0, whole - sum(seconds) / len(found))
    return {
        "kind": kind,
        "by": by,
        "fixed": round(fixed, 3),
        "unit": work.unit,
        "each": float(f"{each:.4g}"),
        "of": of,
    }


def _grown(work: Work, times: Times) -> tuple[int, float, float]:
    """How many were made, the seconds that grew with them, and what each was worth; where none is counted all work."""
    count = times["counts"].get(COUNTED.get(work.unit, ""))
    if count is not None:
        return count["number"], count["seconds"], work.of
    return work.number, times["seconds"].get("work", 0.0), work.of


def _activities(kinds: dict[tuple[str, str], list[tuple[Work, Times]]]) -> Iterator[Rate]:
    """Rates of drawing and training alone, from stages that do nothing else."""
    pooled: dict[tuple[str, str], list[tuple[Work, Times]]] = {}
    for found in kinds.values():
        for work, times in found:
            if len(work.parts) == 1 and not work.rest:
                pooled.setdefault((work.parts[0].activity, work.parts[0].by), []).append((work, times))
    for (activity, by), found in pooled.items():
        yield _rate(activity, by, found)


def _between(root: Path) -> dict[str, float]:
    """DVC's own seconds for a stage: from the end of one to the start of the next, where they ran in a row."""
    ended = []
    for file in (root / timing.FOLDER).glob("*.json"):
        if times := timing.read(root, file.stem):
            ended.append((file.stat().st_mtime, sum(times["seconds"].values())))
    ended.sort()
    gaps = [end - took - before for (before, _), (end, took) in pairwise(ended)]
    gaps = [gap for gap in gaps if 0 <= gap < BREAK]
    return {"between": round(fmean(gaps), 3)} if len(gaps) >= FEW else {}
