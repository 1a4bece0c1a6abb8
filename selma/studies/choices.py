"""What was chosen of the images that an expert could be trained on, from what its run's stages rate and pick say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from selma.runtime.params import Params
from selma.runtime.places import IMAGES, PICKED
from selma.studies.sources import Source

Choice = Mapping[str, Any]
KEYS = ("mean", "best")  # of metrics/rate: the mean score of all images, and of each prompt's best one


def choice_of(source: Source, params: Params, expert: str | None) -> Choice | None:
    """What was chosen for an expert; None for one whose images no row of `picks` chose.

    drawn_by, images, prompts, kept, prompts_kept; by judge its mean score of all images, of each prompt's best one and
    of the kept ones; diversity, how unlike the images of one prompt are (pixels, 0 to 1; None: it has one).
    """
    row = params.experts.get(expert or "")
    if row is None or Path(row.data).parent != Path(PICKED):
        return None
    name = Path(row.data).name
    pick, origin = source.metrics(f"metrics/pick/{name}.json"), params.picks[name].source
    folders = [f"images/{skill}" for skill in params.skills] if f"data/{origin}" == IMAGES else [origin]
    drawn = params.draws.get(Path(origin).name) if origin.startswith("drawn/") else None
    judges: dict[str, dict[str, float | None]] = {}
    for judge in params.rate.judges:
        rated = [source.metrics(f"metrics/rate/{folder}/{judge}.json") for folder in folders]
        weights = [each["prompts"] for each in rated]
        judges[judge] = {key: fmean([each[key] for each in rated], weights) for key in KEYS}
        spread = {each["diversity"] for each in rated}
        judges[judge]["diversity"] = (
            None if None in spread else fmean([each["diversity"] for each in rated], weights)
        )
        judges[judge]["kept"] = pick["scores"][judge]["kept"]
    return {
        "drawn_by": Path(drawn.weights).name if drawn else params.images.backbone,
        **{key: pick[key] for key in ("images", "prompts", "kept", "prompts_kept")},
        "judges": judges,
    }


def choice_lines(choices: Mapping[str, Mapping[int, Choice]]) -> list[dict[str, str]]:
    """A line for each row that images were chosen for, means over seeds."""
    lines = []
    for name, own in choices.items():
        if not own:
            continue
        seeds = list(own.values())
        first = seeds[0]
        line = {"name": name, "drawn_by": first["drawn_by"]}
        for key in ("images", "prompts", "kept", "prompts_kept"):
            line[key] = f"{fmean(each[key] for each in seeds):,.0f}"
        for key in ("mean", "best", "kept"):
            means = {judge: fmean(each["judges"][judge][key] for each in seeds) for judge in first["judges"]}
            line[f"{key}_scores"] = ", ".join(f"{judge} {mean:.3f}" for judge, mean in means.items())
        spread = [next(iter(each["judges"].values()))["diversity"] for each in seeds]
        line["diversity"] = "" if None in spread else f"{fmean(spread):.3f}"  # a prompt has one image alone
        lines.append(line)
    return lines
