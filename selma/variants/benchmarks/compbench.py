"""T2I-CompBench++ (arXiv 2307.06350): eight categories with 300 prompts each to test with; text files, a prompt a line.

The categories' official scorers, and what is asked here:

color, shape, texture   BLIP-VQA: the product of P(yes) over the noun phrases that spaCy finds ("a green bench?"). Here
                        the same of phrases found by rules (`phrases`); a judge of kind blip_vqa is the official model.
spatial, 3d_spatial     boxes by UniDet, and depth. A substitute: is there an A, is there a B, is A where it should be.
numeracy                counts by UniDet, half for presence and half for the number. A substitute: the same, asked.
non_spatial             CLIPScore by ViT-B/32. A substitute: does the figure show the prompt. The official score is
                        that of a judge of kind `clip` with that model, in `preferences`.
complex                 3-in-1, the mean of those three that apply. A substitute: the phrases, and the prompt.

scoring/compbench.py scores answers, and takes the official scorers' own output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import read_text
from selma.ground.items import YES_NO, Item, Question
from selma.ground.words import article

NEEDS = ("files",)
# By category; kept next to the splits.
FILES = {
    "color": "color_val.txt",
    "shape": "shape_val.txt",
    "texture": "texture_val.txt",
    "spatial": "spatial_val.txt",
    "3d_spatial": "3d_spatial_val.txt",
    "numeracy": "numeracy_val.txt",
    "non_spatial": "non_spatial_val.txt",
    "complex": "complex_val.txt",
}
ATTRIBUTES = ("color", "shape", "texture")
SUBSTITUTES = {  # category -> the official scorer that questions stand in for
    "spatial": "UniDet",
    "3d_spatial": "UniDet with depth",
    "numeracy": "UniDet",
    "non_spatial": "CLIPScore",
    "complex": "3-in-1",
}

_ARTICLES = ("a", "an", "the")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_BE = ("is", "are", "was", "were")
_RELATIONS = (
    "in front of",
    "behind",
    "hidden by",
    "on the left of",
    "on the right of",
    "on the top of",
    "on top of",
    "on the bottom of",
    "on side of",
    "next to",
    "near",
)
_CUTS = (
    r"with|of|on|in|at|by|for|to|from|into|onto|over|under|above|below|against|around|between|beside|"
    r"inside|through|past|across|while|which|that|who"
)
_BREAK = re.compile(rf"[,;.](?=\s|$)|\b(?:{'|'.join((*_RELATIONS, _CUTS, *_BE))})\b(?!-)", re.IGNORECASE)
_PLACED = re.compile(rf"an? (?P<one>.+?) (?P<where>{'|'.join(_RELATIONS)}) an? (?P<other>.+)", re.IGNORECASE)
# "a" counts only in a list: "a warm atmosphere" is no object.
_COUNTED = re.compile(
    rf"\b(?:(?P<number>{'|'.join(_NUMBERS)})|(?:^|(?<=, )|(?<=and ))an?) (?P<noun>[a-z]+)", re.IGNORECASE
)


def read(files: Mapping[str, Path]) -> list[Item]:
    """Items of the category files given, in FILES' order, all in the test split; the category is an item's skill.

    Raises UserError for a file that cannot be read or holds no prompts.
    """
    return [
        Item(f"{category}-{number:05d}", prompt, category, "compbench", questions(category, prompt))
        for category in FILES
        if category in files
        for number, prompt in enumerate(_prompts(files[category]))
    ]


def questions(category: str, prompt: str) -> tuple[Question, ...]:
    """The questions about a prompt of a category, of all of which yes is expected."""
    text = prompt.strip().rstrip(".")
    if category in ATTRIBUTES:
        asked = _attributes(text)
    elif category in ("spatial", "3d_spatial"):
        asked = _places(text) or _scene(text)
    elif category == "numeracy":
        asked = _counts(text) or _scene(text)
    elif category == "complex":
        asked = [*_attributes(text), *_scene(text)]
    else:
        asked = _scene(text)
    return tuple(
        Question(str(i), words, YES_NO, "yes", parents, kind)
        for i, (words, kind, parents) in enumerate(asked, start=1)
    )


def phrases(prompt: str) -> list[str]:
    """The noun phrases of a prompt, by rules in place of spaCy's parser.

    A prompt is cut at commas, prepositions and forms of "be", and then at "and" where an article or a number follows or
    a whole phrase stands before ("a red apple and bananas", not "a black and white cat"). What follows "be" without an
    article ("was hung") is left out. A verb that is none of these stays: "A cat sits in a sink" has "A cat sits".
    """
    found, before, start = [], "", 0
    text = prompt.strip().rstrip(".")
    for cut in (*_BREAK.finditer(text), None):
        part = text[start : cut.start() if cut else None].strip()
        bare = before in _BE and not _opens(part)
        if part and not bare:
            found += _at_and(part)
        if cut:
            before, start = cut[0].lower(), cut.end()
    return [phrase for phrase in found if phrase.lower() not in _ARTICLES] or [text]


def _at_and(part: str) -> Iterator[str]:
    words, start = part.split(), 0
    for i, word in enumerate(words):
        left, right = words[start:i], words[i + 1 :]
        if word.lower() != "and" or not right:
            continue
        whole = len(left) > (2 if _opens(" ".join(left)) else 1)
        if not left or whole or _opens(right[0]):
            if left:
                yield " ".join(left)
            start = i + 1
    yield " ".join(words[start:])


def _opens(text: str) -> bool:
    """Whether a text begins as a noun phrase does, with an article or a number."""
    return text.partition(" ")[0].lower() in (*_ARTICLES, *_NUMBERS)


# Questions: (text, category, parents) ----------------------------------------------------------

_Asked = list[tuple[str, str, tuple[str, ...]]]


def _attributes(text: str) -> _Asked:
    return [(f"{phrase}?", "attribute", ()) for phrase in phrases(text)]


def _scene(text: str) -> _Asked:
    return [(f'Does this figure show "{text}"?', "scene", ())]


def _places(text: str) -> _Asked:
    if (said := _PLACED.fullmatch(text)) is None:
        return []
    one, other = said["one"], said["other"]
    return [
        (f"Is there {article(one)}?", "object", ()),
        (f"Is there {article(other)}?", "object", ()),
        (f"Is the {one} {said['where']} the {other}?", "position", ("1", "2")),
    ]


def _counts(text: str) -> _Asked:
    """Each thing's presence and its number: half the score each, as officially."""
    asked: _Asked = []
    for said in _COUNTED.finditer(text):
        number, noun = (said["number"] or "one").lower(), said["noun"]
        one = number == "one"
        asked.append((f"Is there {article(noun)}?" if one else f"Are there any {noun}?", "object", ()))
        exact = f"{'Is' if one else 'Are'} there exactly {number} {noun}?"
        asked.append((exact, "count", (str(len(asked)),)))
    return asked


def _prompts(path: Path) -> list[str]:
    found = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if not found:
        raise UserError(f"{path}: holds no prompts; a line for each is needed")
    return found
