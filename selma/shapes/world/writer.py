"""The embedded stand-in for an LLM: it reads the same request and answers as one does, seeded and offline.

Asked for prompts, it takes the style from the request's rules and examples, writes prompts of the shapes world in it,
and has the habits of real models: it repeats itself now and then, chats before the list, skips a number, is cut off.
Asked for a prompt's questions, it reads the prompt (reader.py) and writes what the exam would ask.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from random import Random

from selma.shapes.world.language import describe
from selma.shapes.world.questions import make_questions
from selma.shapes.world.reader import read_caption
from selma.shapes.world.scene import NUMBERS, Scene, sample_scene

_REPEAT = 0.04  # chance that an item repeats an earlier one or an example
_PREAMBLES = ("", "", "", "Sure! Here are more prompts:\n\n", "Here you go:\n")
_ITEM = re.compile(r"^\s*(\d+)[.)]\s+(.*\S)", re.MULTILINE)
KINDS = {  # kinds of scene a style speaks of
    "objects": ("pair", "pair", "single"),
    "paragraph": ("pair", "pair", "pair", "single"),
    "tags": ("pair", "pair", "single"),
    "count": ("count",),
    "counterfactual": ("pair", "pair", "single"),
    "relations": ("pair",),
    "sizes": ("pair", "pair", "single"),
}
_STYLE_WORDS = {  # what gives a style away in a request
    "tags": ("comma-separated", "keywords"),
    "paragraph": ("paragraph", "several sentences"),
    "counterfactual": ("counterfactual", "unusual", "never or rarely", "commonsense"),
    "count": ("counting", "how many"),
    "relations": ("spatial relation",),
    "sizes": ("relative size",),
}


_ASKED = re.compile(r"^Prompt: (.*\S)", re.MULTILINE)  # the last one is to be asked about


class Writer:
    """Answers a request for prompts, or for the questions about one."""

    def reply(self, request_text: str, seed: int) -> tuple[str, str]:
        """The reply's text and its finish reason, "stop" or "length"; the same for the same request and seed."""
        rng = Random(f"writer:{seed}")
        if prompts := _ASKED.findall(request_text):
            return _questions(rng, prompts[-1]), "stop"
        examples = [text for _, text in _ITEM.findall(request_text)]
        style = read_style(request_text, examples)
        wanted = _wanted(request_text)
        items: list[str] = []
        for _ in range(wanted):
            known = examples + items
            items.append(rng.choice(known) if known and rng.random() < _REPEAT else _write(rng, style))
        return _format(rng, items, first=len(examples) + 1)


def _questions(rng: Random, prompt: str) -> str:
    """JSON with the prompt's questions, fenced now and then; about a prompt of another world it knows nothing."""
    try:
        asked = make_questions(read_caption(prompt))
    except ValueError:
        return "I'm sorry, I can't tell what this prompt shows."
    rows = [
        {"id": one.id, "question": one.text, "category": one.category, "parents": list(one.parents)}
        for one in asked
    ]
    said = json.dumps({"questions": rows})
    return rng.choice((said, said, f"Here are the questions:\n\n```json\n{said}\n```"))


def read_style(request_text: str, examples: list[str]) -> str:
    """The style a request asks for: what its rules say, else what its examples look like."""
    rules = _ITEM.sub("", request_text).lower()
    for style, words in _STYLE_WORDS.items():
        if any(word in rules for word in words):
            return style
    if _most(text.count(",") >= 2 for text in examples):
        return "tags"
    if _most(". " in text.rstrip(".") for text in examples):
        return "paragraph"
    number = re.compile(rf"\b({'|'.join(NUMBERS.values())})\b", re.IGNORECASE)
    return "count" if _most(bool(number.search(text)) for text in examples) else "objects"


def _most(hits: Iterable[bool]) -> bool:
    hits = list(hits)
    return sum(hits) * 2 > len(hits)


def _wanted(request_text: str) -> int:
    """The number of prompts asked for: the first number before "more" or "prompts"; 20 when none is named."""
    match = re.search(r"\b(\d+)\s+(?:\w+\s+){0,2}?(?:more|prompts|descriptions)", request_text)
    return int(match.group(1)) if match else 20


def _write(rng: Random, style: str) -> str:
    if style == "sizes":
        return describe(rng, _sized_scene(rng), style, sized=1.0)[0]
    scene = sample_scene(rng, rng.choice(KINDS[style]), rare=1.0 if style == "counterfactual" else 0.0)
    return describe(rng, scene, style)[0]


def _sized_scene(rng: Random) -> Scene:
    """A scene of one thing that is small or large, or of two, one of which is small and the other large."""
    kind = rng.choice(KINDS["sizes"])
    while True:
        scene = sample_scene(rng, kind)
        sizes = [thing.size for thing in scene.things]
        if "medium" not in sizes and len(set(sizes)) == len(sizes):
            return scene


def _format(rng: Random, items: list[str], first: int) -> tuple[str, str]:
    marker = rng.choice(("{}. ", "{}. ", "{}. ", "{}) "))
    lines, number = [], first
    for item in items:
        text = f'"{item}"' if rng.random() < 0.02 else item
        lines.append(marker.format(number) + text)
        number += 2 if rng.random() < 0.01 else 1  # a skipped number now and then
    text = rng.choice(_PREAMBLES) + "\n".join(lines)
    if rng.random() < 0.04:
        return text[: len(text) - rng.randint(3, 15)], "length"
    return text, "stop"
