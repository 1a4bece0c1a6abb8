"""From every row's scores to what the comparison table claims, over training seeds and prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selma.scoring.bootstrap import bootstrap_mean
from selma.scoring.seeds import over_seeds
from selma.scoring.summary import interval, rounded
from selma.studies.rows import EXAMINED, POINTS, Claim, Row, Table, for_page

COLUMNS = (
    *("row", "point", "guidance", "score", "gain", "low", "high"),
    *("gain_over_selma", "low_over_selma", "high_over_selma"),
    *("seeds", "steps", "images", "judge_calls", "seconds", "paper"),
)
CURVE_COLUMNS = ("row", "guidance", "score", "gain")
RESAMPLES = 2000  # where there is one seed: an interval over prompts alone

Scores = Mapping[str, float]
Gain = dict[str, float]  # mean, low, high


@dataclass
class Cost:
    """What a model took to make: training steps, images drawn, questions asked of the judge, seconds."""

    steps: float = 0
    images: float = 0
    judge_calls: float = 0
    seconds: float = 0

    def __add__(self, other: Cost) -> Cost:
        mine, theirs = vars(self), vars(other)
        return Cost(**{name: mine[name] + theirs[name] for name in mine})


@dataclass
class Measured:
    """One row with one training seed: by point its guidance, test scores and cost; its dev curve by guidance."""

    guidance: dict[str, float] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    cost: dict[str, Cost] = field(default_factory=dict)
    curve: dict[float, Scores] = field(default_factory=dict)


Found = Mapping[str, Mapping[int, Measured]]  # by row, then by seed


def gain(found: Found, first: str, second: str, point: str, other: str | None = None) -> Gain:
    """The gain of one row over another at the same point, each at its own guidance, with its 95% interval.

    `other` is the second one's point, where it is not the same. Over the seeds that both have, and prompts
    (selma/scoring/seeds.py); with one seed, over prompts alone.
    """
    seeds = [seed for seed in found[first] if seed in found[second]]
    items = list(found[second][seeds[0]].scores[point])
    a, b = (
        np.array([[found[row][seed].scores[at][item] for item in items] for seed in seeds])
        for row, at in ((first, point), (second, other or point))
    )
    if len(seeds) == 1:
        return interval(bootstrap_mean(list((a - b)[0]), resamples=RESAMPLES, seed=0))
    return interval(over_seeds(a - b))


def table_rows(table: Table, found: Found) -> list[dict[str, Any]]:
    """metrics/ablations.csv: a row of the table at each point; scores and gains 0 to 1, costs means over seeds."""
    rows = []
    for name, measured in found.items():
        own = for_page(table, table.rows[name].page)
        for point in POINTS:
            runs = list(measured.values())
            over_base = gain(found, name, own.base, point)
            over_selma = gain(found, name, own.selma, point)
            cost = {key: float(np.mean([vars(run.cost[point])[key] for run in runs])) for key in vars(Cost())}
            rows.append(
                {
                    "row": name,
                    "point": point,
                    "guidance": " ".join(f"{run.guidance[point]:g}" for run in runs)
                    if point != EXAMINED
                    else f"{runs[0].guidance[point]:g}",
                    "score": rounded(float(np.mean([_mean(run.scores[point]) for run in runs]))),
                    "gain": over_base["mean"],
                    "low": over_base["low"],
                    "high": over_base["high"],
                    "gain_over_selma": over_selma["mean"],
                    "low_over_selma": over_selma["low"],
                    "high_over_selma": over_selma["high"],
                    "seeds": len(runs),
                    **{key: round(value) for key, value in cost.items()},
                    "paper": table.rows[name].paper,
                }
            )
    return rows


def curve_rows(table: Table, found: Found) -> list[dict[str, Any]]:
    """metrics/ablations_dev.csv: every row's dev score by guidance, and its gain over the base there; over seeds."""
    rows = []
    for name, measured in found.items():
        own = for_page(table, table.rows[name].page)
        for scale in next(iter(measured.values())).curve:
            mine = [_mean(run.curve[scale]) for run in measured.values()]
            base = [_mean(found[own.base][seed].curve[scale]) for seed in measured]
            rows.append(
                {
                    "row": name,
                    "guidance": scale,
                    "score": rounded(float(np.mean(mine))),
                    "gain": rounded(float(np.mean(mine) - np.mean(base))),
                }
            )
    return rows


def verdict(claim: Claim, found: Gain) -> str:
    """Whether the embedded world "agrees", "disagrees" or "cannot tell", by the interval of the gain over the other."""
    sign = 1 if claim.finds == "better" else -1
    low, high = sorted((sign * found["low"], sign * found["high"]))
    if low > 0:
        return "agrees"
    return "disagrees" if high < 0 else "cannot tell"


def sentence(name: str, row: Row, found: Found, point: str) -> str:
    """What the paper finds, what is found here, and whether the two agree; "" for a row without a claim."""
    claim = row.claim
    if claim is None or claim.over not in found:
        return ""
    here = gain(found, name, claim.over, point)
    return f"{claim.says} Here it is {_points(here)} over {claim.over}: the embedded world {verdict(claim, here)}."


def against(table: Table, found: Found, name: str) -> str:
    """What a row without a paper's claim shows against SELMA's merge, at both points."""
    said = []
    for point in POINTS:
        here = gain(found, name, table.selma, point)
        shown = "better" if here["low"] > 0 else "worse" if here["high"] < 0 else "no difference is shown"
        said.append(f"{point} {_points(here)}, {shown if len(found[name]) > 1 else 'one seed'}")
    return "; ".join(said) + "."


def _points(found: Gain) -> str:
    return f"{100 * found['mean']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"


def _mean(scores: Scores | Sequence[float]) -> float:
    return float(np.mean(list(scores.values())))
