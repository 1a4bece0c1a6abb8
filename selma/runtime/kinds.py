"""Checks of what fits a backbone's kind, diffusion or multimodal, as far as params.yaml tells it before anything runs.

Embedded backbones are diffusion ones, those of one's own tell it by their folder; of the hub's the stages say it, once
they are downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from selma.ground.backbones import is_multimodal
from selma.ground.errors import UserError
from selma.runtime import variants
from selma.runtime.candidates import FEATURES, METHODS, TEMPERATURE
from selma.runtime.drawing import TOKENS
from selma.runtime.origins import embedded
from selma.runtime.places import BACKBONES

if TYPE_CHECKING:
    from selma.runtime.candidates import Diversity
    from selma.runtime.drawing import Drawing
    from selma.runtime.params import Params

DIFFUSION, MANY = "diffusion", "multimodal"


def kind_of(params: Params, backbone: str) -> str | None:
    """The kind of a backbone by its name; None where that cannot be told yet."""
    if backbone in embedded(params.worlds):
        return DIFFUSION
    own = params.own.backbones.get(backbone)
    if own is None or not Path(own.path).is_dir():
        return None
    try:
        return MANY if is_multimodal(Path(own.path)) else DIFFUSION
    except UserError:  # a broken folder has its own error, in its own stage
        return None


def check_kinds(params: Params) -> None:
    """Raise UserError, naming the key, where a setting or a row does not fit its backbone's kind."""
    _check_drawing(params, "images", params.images.backbone, params.images.drawing)
    _check_drawing(params, "evaluate", params.expert.backbone, params.evaluate.drawing)
    for name, row in params.draws.items():
        weights = Path(row.weights)
        backbone = weights.name if weights.parent == Path(BACKBONES) else params.expert.backbone
        _check_drawing(params, "images", backbone, params.images.drawing, f" (draws.{name})")
        _check_diversity(params, f"draws.{name}", backbone, row.diversity)
    kind, backbone = kind_of(params, params.expert.backbone), params.expert.backbone
    if kind is None:
        return
    for name, expert in params.experts.items():
        trains = variants.constants("objectives", expert.objective).get("BACKBONE", DIFFUSION)
        if trains != kind:
            raise UserError(
                f"experts.{name}.objective is {expert.objective}, which trains {trains} backbones; expert.backbone is "
                f"{backbone}, a {kind} one; allowed: {', '.join(_objectives(kind))}"
            )
    if kind == MANY:
        _check_many(params, backbone)


def _objectives(kind: str) -> list[str]:
    found = variants.names("objectives", MIXES=False)
    return [
        name for name in found if variants.constants("objectives", name).get("BACKBONE", DIFFUSION) == kind
    ]


def _check_drawing(params: Params, section: str, backbone: str, drawing: Drawing, where: str = "") -> None:
    kind = kind_of(params, backbone)
    if kind is not None and (kind == MANY) != (drawing.scheduler == TOKENS):
        how = f"tokens one after another: {TOKENS}" if kind == MANY else f"by denoising, not by {TOKENS}"
        raise UserError(
            f"{section}.drawing.scheduler is {drawing.scheduler}; {backbone}{where} is a {kind} backbone, which draws "
            f"{how}"
        )


def _check_diversity(params: Params, key: str, backbone: str, diversity: Diversity | None) -> None:
    kind = kind_of(params, backbone)
    other = {MANY: FEATURES, DIFFUSION: TEMPERATURE}
    if diversity is not None and kind is not None and diversity.method == other[kind]:
        allowed = ", ".join(method for method in METHODS if method != other[kind])
        raise UserError(
            f"{key}.diversity.method is {diversity.method}, which a {kind} backbone ({backbone}) does not have; "
            f"allowed: {allowed}"
        )


def _check_many(params: Params, backbone: str) -> None:
    """What a multimodal backbone has no part for: a UNet's attention, text encoders, noise."""
    for name, model in params.models.items():
        if model.guidance != "cfg":
            raise UserError(
                f"models.{name}.guidance is {model.guidance}, which needs a UNet's attention; {backbone} is a "
                "multimodal backbone: cfg"
            )
    for section in ("policies", "mixtures"):
        for name in getattr(params, section):
            raise UserError(
                f"{section}.{name}: is for diffusion backbones; expert.backbone is {backbone}, a multimodal one"
            )
    for name, merge in params.merges.items():
        if variants.constants("operators", merge.operator).get("NEEDS"):
            raise UserError(
                f"merges.{name}.operator is {merge.operator}, which knows diffusion backbones alone; expert.backbone "
                f"is {backbone}, a multimodal one"
            )
