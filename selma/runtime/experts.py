"""Checks of how experts are trained, and of which ones a merge can hold: by params.yaml alone, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selma.ground.errors import UserError
from selma.runtime import loras, variants
from selma.runtime.picks import holds_pairs
from selma.runtime.places import EXPERTS
from selma.runtime.training import training_of

if TYPE_CHECKING:
    from selma.runtime.params import Params


@dataclass(frozen=True)
class Adapter:
    """What is known of a LoRA before it is trained; `scaling` is alpha / rank, as its file will say.

    `text`: whether it adapts the text encoders, too.
    """

    rank: int
    scaling: float
    targets: tuple[str, ...]
    text: bool = False


def adapter_of(params: Params, name: str) -> Adapter:
    """The adapter of an expert or a policy; a policy that starts from an expert keeps that one's."""
    while name in params.policies:
        start = Path(params.policies[name].start)
        if start.parent != Path(EXPERTS):
            made = params.policy
            return Adapter(made.rank, made.alpha / made.rank, made.targets)
        name = start.name
    settings = training_of(params.expert, params.experts[name])
    scaling = settings.lora_alpha / settings.rank
    return Adapter(settings.rank, scaling, settings.targets, settings.text_encoder)


def check_training(params: Params, name: str) -> None:
    """Raise UserError where the settings by which an expert is trained contradict each other."""
    row = params.experts[name]
    training = training_of(params.expert, row)
    _check_objective(params, name)
    if (
        row.steps is None and training.checkpoint_every > training.steps
    ):  # a short row has its last step alone
        raise UserError(
            f"expert.checkpoint_every is {training.checkpoint_every}; "
            f"it must be at most the {training.steps} steps of expert {name}"
        )
    if training.warmup >= training.steps:
        key = "expert" if row.warmup is None else f"experts.{name}"
        raise UserError(
            f"{key}.warmup is {training.warmup}; it must be less than the {training.steps} steps of expert {name}"
        )
    weighs = variants.constants("objectives", row.objective).get("READS", ())
    if training.min_snr is not None and "min_snr" not in weighs:
        key = "expert" if row.min_snr is None else f"experts.{name}"
        raise UserError(
            f"{key}.min_snr is {training.min_snr:g}, which the objective of expert {name}, {row.objective}, does not "
            "know; set it in the rows of objective denoising alone"
        )
    if training.caption_dropout > 0 and variants.constants("objectives", row.objective).get("CAPTIONS"):
        key = "expert" if row.caption_dropout is None else f"experts.{name}"
        raise UserError(
            f"{key}.caption_dropout is {training.caption_dropout:g}; objective {row.objective} compares with what the "
            f"model that drew the images made of their captions; set experts.{name}.caption_dropout to 0"
        )
    if training.accumulate > training.batch:
        batch = "expert.batch" if row.batch is None else f"experts.{name}.batch"
        raise UserError(
            f"expert.accumulate is {training.accumulate}; it must be at most {batch} ({training.batch})"
        )


def _check_objective(params: Params, name: str) -> None:
    row = params.experts[name]
    variants.options("objectives", row.objective, row.options, f"experts.{name}.options")
    compares = variants.constants("objectives", row.objective).get("PAIRS", False)
    if compares and not holds_pairs(row.data, params):
        raise UserError(
            f"experts.{name}.data is {row.data}, which holds no pairs; objective {row.objective} needs a folder whose "
            "metadata has a column rejected, e.g. data/picked/<name> by the picker `pairs`"
        )


def _trained(params: Params, key: str, operator: str, names: Sequence[str]) -> list[str]:
    """Those of `names` that are trained here; LoRAs of one's own are held against the first one of them.

    Only as far as the header of a file tells: scales stand in tensors, which stage merge reads.
    """
    trained = [name for name in names if name not in params.own.loras]
    same = variants.constants("operators", operator).get("SAME", ())
    for name in names:
        shapes = loras.header(Path(params.own.loras[name].path)) if name in params.own.loras else None
        if shapes is None or not trained:
            continue
        ours = adapter_of(params, trained[0])
        if loras.adapts_texts(shapes) != ours.text:
            one, other = (trained[0], name) if ours.text else (name, trained[0])
            raise UserError(
                f"{key}.experts: {one} adapts the text encoders, too, and {other} does not; merged experts need the "
                "same"
            )
        for targets, texts in ((ours.targets, False), *([(loras.TEXT_TARGETS, True)] if ours.text else [])):
            if found := loras.stranger(shapes, targets, texts):
                raise UserError(
                    f"{key}.experts: {name} adapts other layers than {trained[0]} ({', '.join(targets)}): {found} is "
                    "of one of them alone; merged experts need the same"
                )
        if "rank" in same and (rank := loras.rank_of(shapes)) != ours.rank:
            raise UserError(
                f"{key}.operator is {operator}, which needs experts of one rank; {name} has {rank}, {trained[0]} "
                f"{ours.rank}; allowed: {', '.join(_without('rank'))}"
            )
    return trained


def _without(what: str) -> list[str]:
    """The operators that do not need experts to have the same of that."""
    return [
        name
        for name in variants.names("operators")
        if what not in variants.constants("operators", name).get("SAME", ())
    ]


def check_merge(params: Params, key: str, operator: str, names: Sequence[str]) -> None:
    """Raise UserError, opened by `key`, where experts will not have what the operator needs to be the same.

    All merges need the same targets; what else an operator needs is SAME in its file.
    """
    names = _trained(params, key, operator, names)
    if not names:
        return
    first, *others = names
    states, ours = variants.constants("operators", operator), adapter_of(params, first)
    same = states.get("SAME", ())
    if "tokens" in states.get("NEEDS", ()) and (
        found := [name for name in names if adapter_of(params, name).text]
    ):
        raise UserError(
            f"{key}.operator is {operator}, which knows what the UNet's layers read, not what text encoders' do, and "
            f"{found[0]} trains them (text_encoder)"
        )
    for name in others:
        theirs = adapter_of(params, name)
        if theirs.text != ours.text:
            one, other = (name, first) if theirs.text else (first, name)
            raise UserError(
                f"{key}.experts: {one} trains the text encoders, too (text_encoder), and {other} does not; merged "
                "experts need the same"
            )
        if set(theirs.targets) != set(ours.targets):
            raise UserError(
                f"{key}.experts: {name} has other targets ({', '.join(theirs.targets)}) than {first} "
                f"({', '.join(ours.targets)}); merged experts need the same"
            )
        for what in same:
            if getattr(theirs, what) != getattr(ours, what):
                raise UserError(
                    f"{key}.operator is {operator}, which needs experts of one {what}; {name} has "
                    f"{getattr(theirs, what):g}, {first} {getattr(ours, what):g}; allowed: {', '.join(_without(what))}"
                )
