"""Atomic questions about an image, in the schema of DSG: made from a caption's facts, read back by the oracle."""

from __future__ import annotations

import re

from selma.ground.items import YES_NO, Question
from selma.shapes.world.language import Facts, plural
from selma.shapes.world.scene import BACKGROUNDS, COLORS, NUMBERS, SHAPES

_RELATION_WORDS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
_BY_WORDS = {words: name for name, words in _RELATION_WORDS.items()}
_BY_NUMBER = {word: number for number, word in NUMBERS.items()}
_BY_PLURAL = {plural(shape): shape for shape in SHAPES} | {shape: shape for shape in SHAPES}
MANY = 4  # counts from here on are a category of their own: training prompts stop at three

_thing = f"({'|'.join(_BY_PLURAL)})"
_PATTERNS = (  # (kind, regular expression whose groups are the arguments)
    ("exists", rf"(?:is there an?|are there any) {_thing}"),
    ("count", rf"(?:is there|are there) exactly ({'|'.join(_BY_NUMBER)}) {_thing}"),
    ("color", rf"(?:is|are) the {_thing} ({'|'.join(COLORS)})"),
    ("size", rf"(?:is|are) the {_thing} (small|large)"),
    ("relation", rf"is the {_thing} ({'|'.join(_BY_WORDS)}) the {_thing}"),
    ("background", rf"is the background ({'|'.join(BACKGROUNDS)})"),
)


def make_questions(facts: Facts) -> tuple[Question, ...]:
    """Yes/no questions, one per fact, each depending on the existence of the things it speaks of."""
    questions: list[Question] = []

    def ask(text: str, category: str, *parents: str) -> str:
        number = str(len(questions) + 1)
        questions.append(Question(number, text, YES_NO, "yes", parents, category))
        return number

    found = []
    several = facts.number is not None and facts.number > 1
    for color, shape, size in facts.things:
        name = plural(shape) if several else shape
        be = "Are" if several else "Is"
        exists = ask(f"Are there any {name}?" if several else f"Is there a {name}?", "object")
        found.append(exists)
        if color:
            ask(f"{be} the {name} {color}?", "color", exists)
        if size:
            ask(f"{be} the {name} {size}?", "size", exists)
        if facts.number is not None:
            category = "count" if facts.number < MANY else "count_many"
            verb = "Are there" if several else "Is there"
            ask(f"{verb} exactly {NUMBERS[facts.number]} {name}?", category, exists)
    if facts.relation:
        first, second = (shape for _, shape, _ in facts.things)
        words = _RELATION_WORDS[facts.relation]
        ask(f"Is the {first} {words} the {second}?", "relation", *found)
    if facts.background:
        ask(f"Is the background {facts.background}?", "background")
    return tuple(questions)


def parse_question(text: str) -> tuple[str, tuple]:
    """The kind of a question and its arguments: ("color", ("circle", "red")), ("count", (2, "square")), ...

    Raises ValueError when the text is not one of the six kinds.
    """
    plain = " ".join(text.lower().strip().rstrip("?").split())
    for kind, pattern in _PATTERNS:
        match = re.fullmatch(pattern, plain)
        if match:
            words = tuple(_BY_PLURAL.get(word, word) for word in match.groups())
            words = tuple(_BY_NUMBER.get(word, word) for word in words)
            return kind, tuple(_BY_WORDS.get(word, word) for word in words)
    raise ValueError(f"cannot read the question {text!r}")
