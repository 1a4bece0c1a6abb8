"""Checks of `rate`, `draws`, `renders` and `picks`: which images experts are trained on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.ground.errors import UserError
from selma.runtime import variants
from selma.runtime.candidates import DROPOUT
from selma.runtime.origins import EMBEDDED, allow, allow_all, embedded
from selma.runtime.places import BACKBONES, DRAWN, EXPERTS, IMAGES, MERGES, PICKED, QUESTIONS, RENDERED

if TYPE_CHECKING:
    from selma.runtime.candidates import DrawRow, PickRow
    from selma.runtime.params import Params

# selma/shapes/world/language.py has these styles, which no check may import.
RENDERED_SKILLS = ("objects", "paragraph", "tags", "count", "counterfactual")


def check_picks(params: Params) -> None:
    """Raise UserError, naming the key, where an expert's images could not be made or chosen."""
    _check_rate(params)
    for name, row in params.renders.items():
        if EMBEDDED not in params.worlds:
            raise UserError(
                f"renders.{name}: only the embedded world (`worlds`) has a renderer; use own images"
            )
        allow_all(f"renders.{name}.skills", row.skills, RENDERED_SKILLS, "of the embedded world's styles")
    for name, draw in params.draws.items():
        _check_draw(f"draws.{name}", draw, params)
    for name, pick in params.picks.items():
        _check_pick(f"picks.{name}", pick, params)
    for name in params.experts:
        _check_rounds(name, params)


def settings_of(row: PickRow, judges: Sequence[str], key: str) -> dict[str, Any]:
    """A picker's settings, with the judge that an empty name stands for: the first that has a threshold, or the first
    of all. Raises UserError, opened by `key`, for settings that it does not take."""
    found = variants.options("pickers", row.picker, row.options, key)
    if found.get("judge") == "":
        found["judge"] = next(iter(found.get("least") or judges), "")
    return found


def folders(params: Params) -> list[str]:
    """The folders under data/ that stages fill with images to train on."""
    rows = ((PICKED, params.picks), (DRAWN, params.draws), (RENDERED, params.renders))
    skills = [f"{IMAGES}/{skill}" for skill in params.skills]
    return [IMAGES, *skills, *(f"{folder}/{name}" for folder, names in rows for name in names)]


def origin(data: str, params: Params) -> str:
    """The folder that an expert's images were drawn into: of picked ones that of their source."""
    path = Path(data)
    if path.parent == Path(PICKED) and path.name in params.picks:
        return f"data/{params.picks[path.name].source}"
    return data


def holds_pairs(data: str, params: Params) -> bool:
    """Whether a folder's images have a rejected one beside each, as far as params.yaml says; of one's own perhaps."""
    path = Path(data)
    if path.parent == Path(PICKED) and path.name in params.picks:
        picker = params.picks[path.name].picker
        return bool(variants.constants("pickers", picker).get("PAIRS", False))
    return data not in folders(params)


def lies_in(path: str, *roots: str) -> bool:
    """Whether a path is one of these folders, or lies in one."""
    return any(Path(path).is_relative_to(root) for root in roots)


def _widest(judge: str, params: Params) -> tuple[int, str]:
    """How far apart the scores of a judge that answers questions alone can be, and what they are."""
    row = {**params.judges, **params.own.judges}[judge]
    if variants.constants("judges", row.kind).get("SELF", False):
        return 2, "a mean of p(yes) - p(no), -1 to 1"
    return 1, "a share of questions, 0 to 1"


def _asks_alone(judge: str, params: Params) -> bool:
    """Whether a judge only answers questions: its score of an image is the share that is right."""
    row = {**params.judges, **params.own.judges}[judge]
    return not variants.constants("judges", row.kind)["SCORES"]


def _check_rate(params: Params) -> None:
    rows = {**params.judges, **params.own.judges}
    allow_all("rate.judges", params.rate.judges, rows, "in `judges` or `own.judges`")
    for name in params.rate.judges:
        if params.questions.source == "none" and _asks_alone(name, params):
            raise UserError(
                f"rate.judges holds {name}, which answers questions alone, and questions.source is none, so prompts "
                "have none; set it to llm, or take a judge that scores pictures for prompts"
            )


def _check_draw(key: str, row: DrawRow, params: Params) -> None:
    if row.diversity is not None and row.diversity.method == DROPOUT and row.diversity.strength >= 1:
        raise UserError(
            f"{key}.diversity.strength is {row.diversity.strength:g}; dropout keeps something below 1"
        )
    if Path(row.weights).parent == Path(MERGES):
        raise UserError(
            f"{key}.weights is {row.weights}; merges may be made of experts that are trained on what is drawn here; "
            "take an expert"
        )
    backbones = {*embedded(params.worlds), *params.backbones, *params.own.backbones}
    made = (f"{EXPERTS}/{name}" for name in (*params.experts, *params.policies, *params.own.loras))
    allow(
        f"{key}.weights",
        row.weights,
        [*(f"{BACKBONES}/{name}" for name in backbones), *made],
        "made by a stage",
    )
    known = [QUESTIONS, *(f"{QUESTIONS}/{skill}" for skill in params.skills)]
    known += [f"{RENDERED}/{name}" for name in params.renders]
    if row.prompts in known:
        return
    if within(row.prompts).parts[:1] == ("data",) and within(row.prompts).parts[:2] != ("data", "own"):
        raise UserError(f"{key}.prompts is {row.prompts}; allowed under data/: {', '.join(known)}, data/own")
    for name in params.rate.judges:
        if _asks_alone(name, params):
            raise UserError(
                f"rate.judges holds {name}, which answers questions alone, and the captions of {key}.prompts "
                f"({row.prompts}) have none; take judges that score pictures for prompts, or filtered prompts"
            )


def within(path: str) -> Path:
    """A path as it lies in this repository, or as it is where it lies elsewhere."""
    whole = Path(os.path.normpath(Path.cwd() / path))
    return whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else Path(path)


def _check_pick(key: str, row: PickRow, params: Params) -> None:
    drawn = [folder.removeprefix("data/") for folder in folders(params) if lies_in(folder, IMAGES, DRAWN)]
    allow(f"{key}.source", row.source, drawn, "drawn by a stage")
    states = variants.constants("pickers", row.picker)
    options = variants.options("pickers", row.picker, row.options, f"{key}.options")
    if not params.rate.judges:
        raise UserError(
            f"{key}: rate.judges is empty; name a judge, by whose scores {row.picker} chooses or is compared"
        )
    if options.get("judge"):
        allow(f"{key}.options.judge", options["judge"], params.rate.judges, "in rate.judges")
    judge = settings_of(row, params.rate.judges, f"{key}.options").get("judge")
    margin = options.get("margin", 0)
    most, what = _widest(judge, params) if margin and _asks_alone(judge, params) else (None, "")
    if most is not None and margin >= most:
        raise UserError(
            f"{key}.options.margin is {margin:g}; its judge's score is {what}: no two images are further "
            "apart"
        )
    if "least" in options:
        _check_least(f"{key}.options.least", options["least"], params)
    where, images = "images.candidates", params.images.candidates
    if row.source.startswith("drawn/"):
        where = f"draws.{Path(row.source).name}.images"
        images = params.draws[Path(row.source).name].images
    if images < states.get("LEAST", 1):
        raise UserError(
            f"{key}.picker is {row.picker}, which chooses among {states['LEAST']} images of a prompt or more; "
            f"{where} is {images}"
        )
    if states.get("PAIRS") and options.get("pairs", 1) > (most := images // 2):
        raise UserError(
            f"{key}.options.pairs is {options['pairs']}; allowed: up to {most}, as {where} is {images} and a pair "
            "takes two"
        )


def _check_least(key: str, least: dict[str, float] | None, params: Params) -> None:
    if not least:
        raise UserError(
            f"{key} is missing; it must hold a number for one of: {', '.join(params.rate.judges)}"
        )
    allow_all(key, least, params.rate.judges, "in rate.judges")
    for name, bar in least.items():
        if bar > 1 and _asks_alone(name, params):
            raise UserError(
                f"{key}.{name} is {bar:g}; its score is a share of questions, 0 to 1: no image passes"
            )


def _check_rounds(name: str, params: Params) -> None:
    """Raise UserError where an expert is trained on what it draws itself, perhaps over others."""
    seen, at = [name], _before(name, params)
    while at is not None:
        if at == name:
            raise UserError(
                f"experts.{name}.data is {params.experts[name].data}, which {name} itself draws "
                f"({' from '.join([*seen, name])}); begin somewhere"
            )
        if at in seen:  # another row's circle, which has its own error
            return
        seen.append(at)
        at = _before(at, params)


def _before(name: str, params: Params) -> str | None:
    """The expert or policy that drew a row's images, or that it starts from."""
    if name in params.policies:
        weights = params.policies[name].start
    elif name in params.experts:
        source = Path(origin(params.experts[name].data, params))
        if source.parent != Path(DRAWN) or source.name not in params.draws:
            return None
        weights = params.draws[source.name].weights
    else:
        return None
    return Path(weights).name if Path(weights).parent == Path(EXPERTS) else None
