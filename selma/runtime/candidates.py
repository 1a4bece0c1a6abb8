"""Sections `rate`, `draws`, `renders` and `picks` of params.yaml: which images experts are trained on."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from selma.ground.schema import Fraction, Positive, Seed, matches, once, one_of, section
from selma.runtime import variants
from selma.runtime.drawing import NonNegative
from selma.runtime.origins import OnDisk
from selma.runtime.schema import AnyNames, RowName

Many = Annotated[int, Field(ge=1, le=1000)]  # images of one prompt
# Of the folders under data/ that hold images: every skill's, one skill's, or a row's of `draws`.
Source = Annotated[
    str,
    matches(
        r"images|images/[A-Za-z0-9_-]+|drawn/[A-Za-z0-9_-]+",
        "images, images/<skill> or drawn/<row of `draws`>",
    ),
]


@section
class Rate:
    """The judges that score every training image for its prompt, for `picks` to choose by; none: nothing is scored."""

    judges: AnyNames = ()


# selma/backbones/diversity.py says what they do.
TEMPERATURE, DROPOUT, FEATURES = METHODS = ("temperature", "dropout", "features")


@section
class Diversity:
    """What makes a prompt's images differ by more than their noise: a method, and how strong it is."""

    method: Annotated[str, one_of(METHODS)]
    strength: Positive


@section
class DrawRow:
    """Further training images, by a model of this run: the next round's.

    `weights` is a backbone's folder, or that of an expert or a policy. `prompts` is data/questions or a skill's folder
    in it, a rendered folder, or an imagefolder of one's own, whose captions are drawn. `images` of each prompt, of
    which the first has number `first` (its noise follows from that number); `guidance` null is images.drawing's.
    `diversity` makes them differ by more than their noise; null: by that alone.
    """

    weights: str
    prompts: OnDisk
    images: Many = 1
    first: Annotated[int, Field(ge=0, le=10**6)] = 0
    guidance: NonNegative | None = None
    diversity: Diversity | None = None


@section
class RenderRow:
    """Real pairs of the embedded world: captions of skills, `images` of each, and pictures that show what they say.

    `spread` and `jitter` say how far from the middle things stand and how much they vary (shapes/world/render.py).
    """

    skills: Annotated[tuple[RowName, ...], Field(min_length=1), once]
    images: Annotated[int, Field(ge=1, le=10**5)]
    seed: Seed
    spread: Fraction = 0.05
    jitter: Fraction = 0.25


@section
class PickRow:
    """A folder of chosen images: of which source, by which picker (a file of selma/variants/pickers)."""

    source: Source
    picker: Annotated[str, one_of(variants.names("pickers"))]
    options: dict[str, Any] = Field(default_factory=dict)
