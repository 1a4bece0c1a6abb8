"""Checks of what fits a backbone's kind, diffusion or multimodal, as far as params.yaml tells it before anything runs.

Embedded backbones tell it by their name, others by their folder; of the hub's that is so once they are downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from selma.ground.backbones import INDEX, image_tokens, is_multimodal
from selma.ground.errors import UserError
from selma.runtime import variants
from selma.runtime.candidates import DROPOUT, FEATURES, METHODS, TEMPERATURE
from selma.runtime.drawing import TOKENS
from selma.runtime.experts import adapter_of
from selma.runtime.origins import MULTIMODAL, embedded
from selma.runtime.picks import origin
from selma.runtime.places import BACKBONES, DRAWN, EXPERTS
from selma.runtime.training import training_of

if TYPE_CHECKING:
    from selma.runtime.candidates import Diversity
    from selma.runtime.drawing import Drawing
    from selma.runtime.params import Params

DIFFUSION, MANY = "diffusion", "multimodal"


def kind_of(params: Params, backbone: str) -> str | None:
    """The kind of a backbone by its name; None where that cannot be told yet."""
    if backbone in embedded(params.worlds):
        return MANY if backbone.endswith(MULTIMODAL) else DIFFUSION
    folder = _folder(params, backbone)
    if folder is None:
        return None
    try:
        if is_multimodal(folder):
            return MANY
        return DIFFUSION if (folder / INDEX).is_file() else None
    except UserError:  # a broken folder has its own error, in its own stage
        return None


def _folder(params: Params, backbone: str) -> Path | None:
    """Where a backbone lies now: one's own folder, or what its stage has made; None where it is not here yet."""
    own = params.own.backbones.get(backbone)
    places = [*([] if own is None else [Path(own.path)]), Path(BACKBONES) / backbone]
    return next((place for place in places if place.is_dir()), None)


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
    for name in params.experts:
        _check_round(params, name)
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
    folder = _folder(params, backbone)
    tokens = image_tokens(folder) if kind == MANY and folder else None
    if tokens is not None and drawing.steps != tokens:
        raise UserError(
            f"{section}.drawing.steps is {drawing.steps}; {backbone}{where} draws {tokens} tokens an image, one a step"
        )


def _check_round(params: Params, name: str) -> None:
    """What an expert that learns from its own model's pairs needs of the row of `draws` that they are of."""
    row = params.experts[name]
    states = variants.constants("objectives", row.objective)
    source = Path(origin(row.data, params))
    draw = params.draws.get(source.name) if source.parent == Path(DRAWN) else None
    if not states.get("CAPTIONS"):
        return
    if states.get("TEXT") and (
        draw is None or draw.diversity is None or draw.diversity.method == TEMPERATURE
    ):
        if draw is None and source.parts[:1] != ("data",):  # a person's own folder, which the stage reads
            return
        raise UserError(
            f"experts.{name}.objective is {row.objective}, which tells features apart; the images of {row.data} were "
            f"drawn from one text's features: give a row of `draws` a diversity of method {FEATURES} or {DROPOUT}"
        )
    before = Path(draw.weights).name if draw and Path(draw.weights).parent == Path(EXPERTS) else None
    if before in params.experts and adapter_of(params, before) != adapter_of(params, name):
        raise UserError(
            f"experts.{name}: goes on from {before}, which drew its pairs; rank, alpha, targets and text_encoder must "
            "be the same"
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
    for name, row in params.experts.items():
        training = training_of(params.expert, row)
        for key, value in (("text_encoder", training.text_encoder), ("flip", training.flip)):
            if value:
                raise UserError(
                    f"expert.{key} is true for expert {name}; {backbone} is a multimodal backbone, which learns from "
                    "image tokens: false"
                )
        if training.min_snr is not None:
            raise UserError(
                f"expert.min_snr is set for expert {name}; {backbone} is a multimodal backbone: null"
            )
    for name in params.own.loras:
        raise UserError(
            f"own.loras.{name}: is for diffusion backbones; expert.backbone is {backbone}, a multimodal one"
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
