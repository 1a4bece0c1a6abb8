"""What an image of the shapes world shows: colours, shapes, sizes, counts, relations, background.

A scene is symbolic; `render` gives it positions and pixels, `language` puts it into words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

COLORS = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (40, 60, 225),
    "yellow": (245, 220, 40),
    "purple": (150, 40, 180),
    "orange": (250, 130, 20),
}
BACKGROUNDS = {"white": (250, 250, 250), "black": (12, 12, 12), "gray": (130, 130, 130)}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "medium", "large")
RELATIONS = ("left", "right", "above", "below")
INVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}

# Combinations that pretraining rarely shows: what a "counterfactual" image is made of here.
RARE = (
    ("red", "cross"),
    ("green", "circle"),
    ("blue", "triangle"),
    ("yellow", "square"),
    ("purple", "cross"),
    ("orange", "circle"),
)
_KIND_FACTS = {  # what else a caption of this kind gets wrong
    "single": ("size",),
    "pair": ("relation", "relation", "swap"),
    "count": ("number", "number"),
}
COMMON = tuple((c, s) for c in COLORS for s in SHAPES if (c, s) not in RARE)


@dataclass(frozen=True)
class Thing:
    """One coloured shape; "medium" is the size nobody mentions."""

    color: str
    shape: str
    size: str = "medium"


@dataclass(frozen=True)
class Scene:
    """`things` holds one thing (kind "single" or "count") or two ("pair").

    kind "count": `number` copies of the one thing. kind "pair": the first thing stands `relation` of the second.
    """

    kind: str
    things: tuple[Thing, ...]
    background: str
    relation: str | None = None
    number: int = 1


def sample_scene(rng: Random, kind: str, rare: float = 0.0, numbers: tuple[int, ...] = (1, 2, 3)) -> Scene:
    """A random scene of one kind; each thing is a rare colour-shape combination with probability `rare`."""
    background = rng.choice(tuple(BACKGROUNDS))
    if kind == "count":
        thing = Thing(*_combination(rng, rare), "small")
        return Scene(kind, (thing,), background, number=rng.choice(numbers))
    first = Thing(*_combination(rng, rare), rng.choice(SIZES))
    if kind == "single":
        return Scene(kind, (first,), background)
    while True:
        second = Thing(*_combination(rng, rare), rng.choice(SIZES))
        # Shapes differ, so that a question can name a thing by its shape; two large ones do not fit.
        distinct = second.color != first.color and second.shape != first.shape
        if distinct and not first.size == second.size == "large":
            return Scene(kind, (first, second), background, relation=rng.choice(RELATIONS))


def corrupt_scene(rng: Random, scene: Scene) -> Scene:
    """The scene with one or two facts replaced at random: what a wrong web caption describes."""
    for _ in range(rng.choice((1, 2))):
        index = rng.randrange(len(scene.things))
        thing = scene.things[index]
        what = rng.choice(("color", "color", "shape", "background", *_KIND_FACTS[scene.kind]))
        if what == "background":
            scene = replace(scene, background=rng.choice(tuple(BACKGROUNDS)))
        elif what == "relation":
            scene = replace(scene, relation=rng.choice(RELATIONS))
        elif what == "number":
            scene = replace(scene, number=rng.choice(tuple(NUMBERS)))
        elif what == "swap":
            first, second = scene.things
            scene = replace(
                scene, things=(replace(first, color=second.color), replace(second, color=first.color))
            )
        else:
            choices = {"color": tuple(COLORS), "shape": SHAPES, "size": SIZES}[what]
            things = list(scene.things)
            things[index] = replace(thing, **{what: rng.choice(choices)})
            scene = replace(scene, things=tuple(things))
    return scene


def _combination(rng: Random, rare: float) -> tuple[str, str]:
    return rng.choice(RARE) if rng.random() < rare else rng.choice(COMMON)
