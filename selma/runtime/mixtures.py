"""Section `mixtures` of params.yaml, and its checks: what is trained on several experts that are trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from selma.ground.errors import UserError
from selma.ground.schema import Count, one_of, section
from selma.runtime import variants
from selma.runtime.origins import allow_all
from selma.runtime.places import IMAGES
from selma.runtime.schema import Names

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
        steps = row.steps or params.expert.steps
        if params.expert.checkpoint_every > steps:
            raise UserError(
                f"expert.checkpoint_every is {params.expert.checkpoint_every}; "
                f"it must be at most the {steps} steps of mixture {name}"
            )
