"""Section `mixtures` of params.yaml, and its checks: what is trained on several experts that are trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from selma.ground.errors import UserError
from selma.ground.schema import Count, one_of, section
from selma.runtime import variants
from selma.runtime.origins import allow_all
from selma.runtime.places import IMAGES
from selma.runtime.schema import Names
from selma.runtime.training import training_of

if TYPE_CHECKING:
    from selma.runtime.params import Params


@section
class Mixture:
    """What is trained on experts, and how; `experts` null is one expert for each skill, of the skill's name.

    Its images are those of its experts. `steps` overrides expert.steps, `options` are the objective's settings.
    """

    objective: Annotated[str, one_of(variants.names("objectives", MIXES=True))]
    experts: Names | None
    steps: Count | None = None
    options: dict[str, Any] = Field(default_factory=dict)


def check_mixtures(params: Params) -> None:
    """Raise UserError, naming the key, for a mixture that could not be trained."""
    for name, row in params.mixtures.items():
        key = f"mixtures.{name}"
        for other in ("experts", "policies", "merges"):
            if name in getattr(params, other):
                raise UserError(f"{key}: `{other}` has a row of that name; choose another")
        variants.options("objectives", row.objective, row.options, f"{key}.options")
        names = params.skills if row.experts is None else row.experts
        if row.experts is None and (missing := [skill for skill in names if skill not in params.experts]):
            raise UserError(
                f"{key}.experts is null (one expert for each skill), but no expert is called {missing[0]}; "
                "add it to `experts`, or list the experts to mix"
            )
        allow_all(f"{key}.experts", names, params.experts, "in `experts`")
        for expert in names:
            data = Path(params.experts[expert].data)
            if Path(IMAGES) not in (data, *data.parents):
                raise UserError(
                    f"{key}.experts holds {expert}, whose data is {data}; a mixture learns on its experts' images in "
                    f"{IMAGES}"
                )
        _check_training(key, name, row, names, params)


def _check_training(key: str, name: str, row: Mixture, names: Sequence[str], params: Params) -> None:
    training = params.expert
    steps = row.steps or training.steps
    if row.steps is None and training.checkpoint_every > steps:
        raise UserError(
            f"expert.checkpoint_every is {training.checkpoint_every}; "
            f"it must be at most the {steps} steps of mixture {name}"
        )
    if training.warmup >= steps:
        raise UserError(
            f"expert.warmup is {training.warmup}; it must be less than the {steps} steps of mixture {name}"
        )
    states = variants.constants("objectives", row.objective)
    if training.min_snr is not None and "min_snr" not in states.get("READS", ()):
        raise UserError(
            f"expert.min_snr is {training.min_snr:g}, which the objective of mixture {name}, {row.objective}, does not "
            "know; set it in rows of `experts` instead"
        )
    trained = [expert for expert in names if training_of(training, params.experts[expert]).text_encoder]
    if training.text_encoder or trained:
        own = [expert for expert in trained if params.experts[expert].text_encoder]
        owner = f"experts.{own[0]}" if own else "expert"
        raise UserError(
            f"{key}: {owner} has text_encoder true, and a mixture's experts adapt the UNet alone; merge such experts"
        )
    first, *others = names
    targets = {expert: training_of(training, params.experts[expert]).targets for expert in names}
    for expert in others:
        if set(targets[expert]) != set(targets[first]):
            raise UserError(
                f"{key}.experts: {expert} has other targets ({', '.join(targets[expert])}) than {first} "
                f"({', '.join(targets[first])}); mixed experts need the same"
            )
    if states.get("LINEAR") and (found := [target for target in targets[first] if "conv" in target]):
        raise UserError(
            f"{key}.objective is {row.objective}, whose gates weigh linear layers alone; {first} has the target "
            f"{found[0]}"
        )
