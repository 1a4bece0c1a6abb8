"""Captions of the shapes world read back into their facts: the inverse of language.describe, by the same tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import count
from string import Formatter

from selma.shapes.world import language
from selma.shapes.world.language import Facts, plural
from selma.shapes.world.scene import BACKGROUNDS, COLORS, INVERSE, NUMBERS, SHAPES

_SIZES = ("small", "large")  # "medium" is never said
_BY_NUMBER = {word: number for number, word in NUMBERS.items()}
_PLACES = {  # every word for a relation or a side, with its relation
    words: relation
    for table in (language.RELATION_WORDS, language.SIDE_WORDS)
    for relation, choices in table.items()
    for words in choices
} | {words: relation for relation, words in language.TAG_SIDES.items()}


def read_caption(text: str) -> Facts:
    """The facts that a caption says, whatever its style and whatever it leaves out.

    `read_caption(describe(...)[0])` is the facts that `describe` returned, but that of two things the one that is
    named first comes first, and a relation is that of the first to the second ("a circle, and a square above it":
    the circle is below). Raises ValueError for a text that is not a caption of this world, and for two things of one
    shape, which no question could tell apart.
    """
    plain = " ".join(text.lower().split())
    if found := _PARAGRAPH.fullmatch(plain):
        facts = _facts(found, turned=True)
    elif found := (_SENTENCE.fullmatch(plain) or _COUNTED.fullmatch(plain)):
        facts = _facts(found)
    else:
        facts = _of_tags(plain.split(", "))
    shapes = [shape for _, shape, _ in facts.things] if facts else []
    if facts is None or len(set(shapes)) < len(shapes):
        raise ValueError(f"cannot read the caption {text[:200]!r}")
    return facts


# Patterns --------------------------------------------------------------------------------------


def _one(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(sorted(map(re.escape, words), key=len, reverse=True))})"


def _phrase(shapes: Iterable[str]) -> str:
    return f"(?:{_one(_SIZES)} )?(?:{_one(COLORS)} )?{_one(shapes)}"


_THING = r"(?:an (?=[aeiou])|a (?![aeiou]))(?P<{}>" + _phrase(SHAPES) + ")"
_THINGS = f"(?P<{{}}>{_phrase((*SHAPES, *map(plural, SHAPES)))})"
_SLOTS = {
    "a": _THING,
    "b": _THING,
    "x": _THINGS,
    "n": f"(?P<{{}}>{_one(_BY_NUMBER)})",
    "are": "(?P<{}>is|are)",
    "ground": f"(?P<{{}}>{_one(BACKGROUNDS)})",
    **dict.fromkeys(("rel", "inverse", "side", "other"), f"(?P<{{}}>{_one(_PLACES)})"),
}
_numbers = count()


def _any(templates: Iterable[str]) -> str:
    """A pattern for any of the templates; each slot is a group of its name and a number of its own."""
    return f"(?:{'|'.join(map(_pattern, dict.fromkeys(templates)))})"


def _pattern(template: str) -> str:
    pieces = Formatter().parse(template)
    return "".join(
        re.escape(literal) + (_SLOTS[slot].replace("<{}>", f"<{slot}_{next(_numbers)}>") if slot else "")
        for literal, slot, _, _ in pieces
    )


def _filled(templates: Iterable[str], blank: str) -> str:
    """A pattern for any of the templates with slots in their blank."""
    return _any(template.replace("{}", blank) for template in templates)


_SENTENCE = re.compile(
    _one({*language.OPENERS, *language.ODD_OPENERS})
    + _any((*language.SINGLES, *language.LOOSE_PAIRS, *language.PAIRS))
    + f"{_filled(language.GROUNDS, '{ground}')}?"
)
_COUNTED = re.compile(f"{_any(language.COUNT_FORMS)}{_filled(language.GROUNDS, '{ground}')}?")
_MANY = [start.replace("there is", "there are") for start in language.PARAGRAPH_STARTS]
_PARAGRAPH = re.compile(
    f"(?:{_filled(language.PARAGRAPH_STARTS, '{a}')}"
    f"{_any((*language.PARAGRAPH_LOOSE, *language.PARAGRAPH_SECONDS))}?|{_filled(_MANY, '{n} {x}')})"
    f"{_filled(language.PARAGRAPH_GROUNDS, '{ground}')}?"
    f"{_one(language.PARAGRAPH_ENDS)}"
)
_TAG = re.compile(
    f"(?P<n>{_one(_BY_NUMBER)}) {_THINGS.format('x')}"
    f"|(?P<a>{_phrase(SHAPES)})(?: (?:on the )?(?P<side>{_one(language.TAG_SIDES.values())}))?"
    f"|(?P<ground>{_one(BACKGROUNDS)}) background"
)


# Facts -----------------------------------------------------------------------------------------


def _facts(found: re.Match[str], turned: bool = False) -> Facts | None:
    """What the groups say; None if they contradict each other. `turned`: relations are b's to a."""
    said = {name.rpartition("_")[0]: name for name, value in found.groupdict().items() if value is not None}
    words = {slot: found[name] for slot, name in said.items()}
    if "n" in words:
        return _counted(words)
    relations = {_PLACES[words[slot]] for slot in ("rel", "side") if slot in words}
    relations |= {INVERSE[_PLACES[words[slot]]] for slot in ("inverse", "other") if slot in words}
    if len(relations) > 1:
        return None
    relation = next(iter(relations), None)
    slots = sorted((slot for slot in ("a", "b") if slot in words), key=lambda slot: found.start(said[slot]))
    if relation and turned != (slots[0] == "b"):
        relation = INVERSE[relation]
    return Facts(tuple(_thing(words[slot]) for slot in slots), relation, None, words.get("ground"))


def _counted(words: dict[str, str]) -> Facts | None:
    number, several = _BY_NUMBER[words["n"]], words["x"].split()[-1] not in SHAPES
    if several != (number > 1) or words.get("are") == ("is" if several else "are"):
        return None
    return Facts((_thing(words["x"]),), None, number, words.get("ground"))


def _of_tags(tags: list[str]) -> Facts | None:
    """The facts of a caption of keywords, some of which say nothing but style; None if one is unknown."""
    found = [_TAG.fullmatch(tag) for tag in tags if tag not in language.TAG_FILLERS]
    if len(found) == len(tags) or None in found:
        return None
    counted = [tag.groupdict() for tag in found if tag["n"]]
    things = [tag for tag in found if tag["a"]]
    grounds = [tag["ground"] for tag in found if tag["ground"]]
    sides = [_PLACES[tag["side"]] for tag in things if tag["side"]]
    if len(grounds) > 1 or len(counted) + bool(things) != 1 or len(things) > 2:
        return None
    ground = grounds[0] if grounds else None
    if counted:
        return _counted(counted[0] | {"ground": ground})
    if sides and (len(sides) != len(things) or len(things) == 1 or sides[1] != INVERSE[sides[0]]):
        return None
    return Facts(tuple(_thing(tag["a"]) for tag in things), sides[0] if sides else None, None, ground)


def _thing(phrase: str) -> tuple[str | None, str, str | None]:
    """Colour, shape and size of "large red circle"; of "circles", too."""
    *said, noun = phrase.split()
    shape = next(shape for shape in SHAPES if noun in (shape, plural(shape)))
    color, size = (next((word for word in said if word in of), None) for of in (COLORS, _SIZES))
    return color, shape, size
