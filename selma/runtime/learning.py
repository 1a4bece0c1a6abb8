"""Sections `policies` and `policy` of params.yaml: models that learn from judges."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from selma.ground.schema import Count, Fraction, Positive, one_of, section
from selma.runtime import variants
from selma.runtime.drawing import Drawing, NonNegative
from selma.runtime.schema import AnyNames, Name, Names

SOLACE = "solace"  # the reward that needs no judge (selma/policies/solace.py)
Few = Annotated[int, Field(ge=1, le=1000)]


@section
class PolicyRow:
    """A model that learns from a judge: where it starts, on which prompts, rewarded by whom, for how many pictures.

    `start` is the backbone's folder or an expert's. `prompts` is data/questions or a skill's folder in it, or a
    benchmark's, of which the dev split is taken. `rewards` are judges' names, or `solace`, with their weights;
    `held_out` are judges that score the dev prompts' pictures and reward nothing. `options` are the algorithm's own.
    """

    algorithm: Annotated[str, one_of(variants.names("algorithms"))]
    start: str
    prompts: str
    rewards: Annotated[dict[Name, float], Field(min_length=1)]
    images: Count
    held_out: AnyNames = ()
    options: dict[str, Any] = Field(default_factory=dict)


@section
class Policy:
    """How every policy is drawn from and trained.

    A round draws `prompts` prompts, `group` pictures each, by `drawing`. `batch` is how many examples go through the
    UNet at once. `average` is the decay, by round, of the moving average that is examined and kept; 0 keeps the adapter
    itself. Every `examine_every` rounds it draws `images_per_prompt` of each dev prompt. It stops where pictures of a
    prompt differ by less than `least_diversity` of what they did at first, or predictions by more than `most_distance`
    from the start's (null: any).
    """

    rank: Count
    alpha: Positive
    targets: Names
    weight_decay: NonNegative
    max_grad_norm: Positive
    prompts: Count
    group: Annotated[int, Field(ge=2)]  # one picture is neither better nor worse than the others
    drawing: Drawing
    examine_every: Count
    images_per_prompt: Few
    average: Annotated[float, Field(ge=0, lt=1)]
    least_diversity: Fraction
    most_distance: Positive | None = None
    batch: Count = 64
    gradient_checkpointing: bool = False
    save_dtype: Annotated[str, one_of(("float32", "float16", "bfloat16"))] = "float32"
