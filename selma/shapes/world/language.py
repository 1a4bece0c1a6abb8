"""Captions of a scene in the five skills' styles, and which of its facts a caption mentions.

All that a caption is made of stands in the tables below; reader.py reads captions back by the same tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from selma.shapes.world.scene import INVERSE, NUMBERS, Scene, Thing

STYLES = ("objects", "paragraph", "tags", "count", "counterfactual")

RELATION_WORDS = {
    "left": ("to the left of", "left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right side of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath"),
}
SIDE_WORDS = {
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "above": ("at the top", "on top", "in the upper part"),
    "below": ("at the bottom", "in the lower part", "down below"),
}
TAG_SIDES = {"left": "left", "right": "right", "above": "top", "below": "bottom"}
OPENERS = (
    *("",) * 6,
    "a picture of ",
    "a photo of ",
    "a drawing of ",
    "an image of ",
    "a simple picture of ",
    "a flat illustration of ",
    "a clean graphic with ",
    "a minimal design showing ",
)
ODD_OPENERS = (
    *("",) * 3,
    "an unusual picture of ",
    "a rare sight, ",
    "an unexpected scene with ",
    "imagine ",
    "a strange drawing of ",
    "surprisingly, ",
    "something never seen before, ",
    "a surreal image of ",
)
GROUNDS = (
    " on a {} background",
    " on a {} background",
    " against a {} backdrop",
    " on plain {}",
    " with a {} background",
    ", all on {}",
)
SINGLES = ("{a}", "{a}", "{a}", "{a} by itself", "{a} alone")
LOOSE_PAIRS = ("{a} and {b}", "{a} with {b}", "{a} next to {b}")  # which say no relation
PAIRS = (  # a stands `rel` of b, and b `inverse` of a; on a canvas `side` is where a is and `other` where b is
    "{a} {rel} {b}",
    "{a} {rel} {b}",
    "{b} {inverse} {a}",
    "{a} {side} and {b} {other}",
    "{a} placed {rel} {b}",
    "{b}, and {a} {rel} it",
)
PARAGRAPH_STARTS = (
    "in this image there is {}.",
    "in this picture we can see {}.",
    "here we can see {}.",
    "this is an image of {}.",
    "the picture shows {}.",
    "in the foreground there is {}.",
    "we can observe {} in this illustration.",
)
PARAGRAPH_LOOSE = (" there is also {b}.", " we can see {b} too.")
PARAGRAPH_SECONDS = (  # b stands `rel` of what the first sentence names
    " {side} of the picture there is {b}.",
    " {side} there is also {b}.",
    " we can also notice {b} {side}.",
    " {rel} it we can see {b}.",
    " {rel} it there is {b}.",
)
PARAGRAPH_GROUNDS = (
    " the background is {}.",
    " the background of the image is {}.",
    " behind, everything is {}.",
    " in the background we can see plain {}.",
    " the whole scene is set on {}.",
)
PARAGRAPH_ENDS = (
    *("",) * 5,
    " the drawing is flat and simple.",
    " the edges are sharp.",
    " nothing else is visible.",
    " the style is plain.",
)
TAG_FILLERS = (
    "flat design",
    "minimalist",
    "vector art",
    "clean lines",
    "digital art",
    "sharp focus",
    "trending",
    "simple",
    "geometric",
    "high quality",
    "icon style",
    "poster",
    "4k",
    "centered composition",
    "solid colors",
    "highly detailed",
)
COUNT_FORMS = (
    "{n} {x}",
    "{n} {x}",
    "exactly {n} {x}",
    "there {are} {n} {x}",
    "a group of {n} {x}",
    "{n} {x} in total",
    "a picture with {n} {x}",
    "a drawing of {n} {x}",
    "a set of exactly {n} {x}",
    "an image showing {n} {x}",
    "{n} separate {x}",
    "only {n} {x}",
    "a card with {n} {x}",
    "we can count {n} {x}",
)


@dataclass(frozen=True)
class Facts:
    """What a caption says: things with unsaid colours or sizes as None; None for what it leaves out."""

    things: tuple[tuple[str | None, str, str | None], ...]  # color, shape, size
    relation: str | None
    number: int | None
    background: str | None


def describe(
    rng: Random, scene: Scene, style: str, drop: float = 0.0, background: float = 0.6, sized: float = 0.75
) -> tuple[str, Facts]:
    """A caption of the scene in one style, and its facts.

    drop: chance to leave a colour or a relation unsaid (as web captions do). background: chance to name it.
    sized: chance to say that a thing is small or large.
    """
    phrases = [_phrase(rng, thing, drop, sized) for thing in scene.things]
    relation = scene.relation if scene.kind == "pair" and rng.random() >= drop else None
    ground = scene.background if rng.random() < background * (1 - drop) else None
    if scene.kind == "count":
        text = _counted(rng, style, scene, phrases[0][0])
    elif style == "tags":
        text = _tags(rng, [p for p, _ in phrases], relation, ground)
    elif style == "paragraph":
        text = _paragraph(rng, [p for p, _ in phrases], relation)
    else:
        text = _sentence(rng, style, [p for p, _ in phrases], relation)
    if ground and style == "paragraph":
        text += rng.choice(PARAGRAPH_GROUNDS).format(ground)
    elif ground and style != "tags":
        text += rng.choice(GROUNDS).format(ground)
    elif ground and scene.kind == "count":
        text += f", {ground} background"
    if style == "paragraph":
        text += rng.choice(PARAGRAPH_ENDS)
    number = scene.number if scene.kind == "count" else None
    return text, Facts(tuple(facts for _, facts in phrases), relation, number, ground)


def plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def _phrase(
    rng: Random, thing: Thing, drop: float, sized: float
) -> tuple[str, tuple[str | None, str, str | None]]:
    color = None if rng.random() < drop else thing.color
    size = thing.size if thing.size != "medium" and rng.random() < sized * (1 - drop) else None
    return " ".join(word for word in (size, color, thing.shape) if word), (color, thing.shape, size)


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _sentence(rng: Random, style: str, phrases: list[str], relation: str | None) -> str:
    opener = rng.choice(ODD_OPENERS if style == "counterfactual" else OPENERS)
    if len(phrases) == 1:
        return opener + rng.choice(SINGLES).format(a=_article(phrases[0]))
    a, b = _article(phrases[0]), _article(phrases[1])
    if relation is None:
        return opener + rng.choice(LOOSE_PAIRS).format(a=a, b=b)
    opposite = INVERSE[relation]
    words = {"rel": RELATION_WORDS[relation], "inverse": RELATION_WORDS[opposite]}
    words |= {"side": SIDE_WORDS[relation], "other": SIDE_WORDS[opposite]}
    said = {slot: rng.choice(choices) for slot, choices in words.items()}
    return opener + rng.choice(PAIRS).format(a=a, b=b, **said)


def _paragraph(rng: Random, phrases: list[str], relation: str | None) -> str:
    text = rng.choice(PARAGRAPH_STARTS).format(_article(phrases[0]))
    if len(phrases) == 1:
        return text
    second = _article(phrases[1])
    if relation is None:
        return text + rng.choice(PARAGRAPH_LOOSE).format(b=second)
    inverse = INVERSE[relation]
    return text + rng.choice(PARAGRAPH_SECONDS).format(
        b=second, rel=rng.choice(RELATION_WORDS[inverse]), side=rng.choice(SIDE_WORDS[inverse])
    )


def _tags(rng: Random, phrases: list[str], relation: str | None, ground: str | None) -> str:
    tags = list(phrases)
    if relation is not None:
        tags[0] = f"{tags[0]} {rng.choice(('', 'on the '))}{TAG_SIDES[relation]}"
        tags[1] = f"{tags[1]} {rng.choice(('', 'on the '))}{TAG_SIDES[INVERSE[relation]]}"
        if rng.random() < 0.3:
            tags.reverse()
    if ground:
        tags.insert(rng.choice((0, len(tags), len(tags))), f"{ground} background")
    return ", ".join(tags + rng.sample(TAG_FILLERS, rng.choice((1, 2, 2, 3, 4))))


def _counted(rng: Random, style: str, scene: Scene, phrase: str) -> str:
    shape = scene.things[0].shape
    things = phrase if scene.number == 1 else phrase.removesuffix(shape) + plural(shape)
    number = NUMBERS[scene.number]
    if style == "tags":
        return f"{number} {things}, " + ", ".join(rng.sample(TAG_FILLERS, rng.choice((1, 2))))
    if style == "paragraph":
        return rng.choice(PARAGRAPH_STARTS).replace("there is", "there are").format(f"{number} {things}")
    are = "is" if scene.number == 1 else "are"
    return rng.choice(COUNT_FORMS).format(n=number, x=things, are=are)
