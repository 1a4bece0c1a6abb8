"""What votes add up to: shares with intervals over prompts, agreement between raters, and with judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from selma.rating.judges import Verdicts
from selma.rating.pairs import Models
from selma.rating.votes import Vote
from selma.scoring.bootstrap import bootstrap_mean
from selma.scoring.summary import interval, rounded

OUTCOMES = ("win", "tie", "lose")  # of the first model
# Below so many prompts the bootstrap's 95% intervals are too narrow: of shares 40/40/20% they held the truth in 72% of
# 1,500 draws of 3 prompts, 87% of 5, 91% of 8, 93% of 10, 94% of 20.
FEW = 10


def summarise(
    votes: Sequence[Vote],
    models: Models,
    benchmark: str,
    *,
    skills: Mapping[str, str] | None = None,
    judges: Mapping[str, Verdicts] | None = None,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """A record of votes about the first model against the second; at least one vote is needed.

    `votes` are counts. `share` averages the raters of a prompt first, then prompts, with 95% bootstrap intervals over
    prompts; `net` is wins minus losses; `decided` is the share of wins among votes that are no tie (SELMA, 5.5:
    "preferred 67.9% of the time"). `left` is the share of such votes for the left picture: far from a half, raters
    looked at sides. `skills` gives counts by an item's skill. `alpha` is Krippendorff's, None where it is undefined.
    """
    options = {"resamples": resamples, "seed": seed}
    items: dict[str, list[int]] = {}
    for vote in votes:
        items.setdefault(vote.item, []).append(_sign(vote, models))
    decided = [(sum(v > 0 for v in values), sum(v != 0 for v in values)) for values in items.values()]
    sides = Counter(vote.choice for vote in votes)
    return {
        "models": list(models),
        "benchmark": benchmark,
        "n_prompts": len(items),
        "n_raters": len({vote.rater for vote in votes}),
        "votes": _counts([value for values in items.values() for value in values]),
        "share": {
            outcome: interval(
                bootstrap_mean([_share(values, outcome) for values in items.values()], **options)
            )
            for outcome in OUTCOMES
        },
        "net": interval(bootstrap_mean([fmean(values) for values in items.values()], **options)),
        "decided": _ratio([pair for pair in decided if pair[1]], options),
        "left": rounded(sides["left"] / both) if (both := sides["left"] + sides["right"]) else None,
        "alpha": alpha(votes, models),
        "by_skill": _by_skill(items, skills or {}),
        "judges": {name: _agreement(items, found, options) for name, found in (judges or {}).items()},
    }


def alpha(votes: Sequence[Vote], models: Models) -> float | None:
    """Krippendorff's alpha of win, tie and lose as nominal values; 1 is full agreement, 0 that of chance.

    None where no prompt has two raters, or every vote is the same.
    """
    import krippendorff
    import numpy as np

    raters = {name: i for i, name in enumerate(dict.fromkeys(vote.rater for vote in votes))}
    items = {name: i for i, name in enumerate(dict.fromkeys(vote.item for vote in votes))}
    table = np.full((len(raters), len(items)), np.nan)
    for vote in votes:
        table[raters[vote.rater], items[vote.item]] = _sign(vote, models)
    shared = table[:, (~np.isnan(table)).sum(axis=0) > 1]
    if len(np.unique(shared[~np.isnan(shared)])) < 2:
        return None
    return rounded(float(krippendorff.alpha(reliability_data=shared, level_of_measurement="nominal")))


def _sign(vote: Vote, models: Models) -> int:
    return {models[0]: 1, models[1]: -1}.get(vote.winner, 0)


def _share(values: Sequence[int], outcome: str) -> float:
    return fmean(value == 1 - OUTCOMES.index(outcome) for value in values)


def _counts(values: Sequence[int]) -> dict[str, int]:
    return {outcome: values.count(1 - i) for i, outcome in enumerate(OUTCOMES)}


def _ratio(pairs: Sequence[tuple[int, int]], options: Mapping[str, int]) -> dict[str, float] | None:
    """The share of some in all, of (some, all) by prompt, drawn together by prompt; None of nothing."""
    if not pairs:
        return None
    some, all_ = zip(*pairs, strict=True)
    return interval(bootstrap_mean(some, all_, **options))


def _by_skill(items: Mapping[str, Sequence[int]], skills: Mapping[str, str]) -> dict[str, dict[str, int]]:
    groups: dict[str, list[int]] = {}
    for item, values in items.items():
        if item in skills:
            groups.setdefault(skills[item], []).extend(values)
    return {skill: _counts(values) for skill, values in sorted(groups.items())}


def _agreement(
    items: Mapping[str, Sequence[int]], judge: Verdicts, options: Mapping[str, int]
) -> dict[str, Any]:
    """How often a judge says what people say of a prompt: of all (`same`), and where both prefer a model (`decided`).

    People prefer the model with more votes than the other one; with as many, it is a tie.
    """
    people = {item: (sum(values) > 0) - (sum(values) < 0) for item, values in items.items() if item in judge}
    both = [item for item, said in people.items() if said and judge[item]]
    return {
        "n_prompts": len(people),
        "same": _ratio([(int(judge[item] == said), 1) for item, said in people.items()], options),
        "n_decided": len(both),
        "decided": _ratio([(int(judge[item] == people[item]), 1) for item in both], options),
    }
