"""The JSON in a reply: values as models write them, whole, cut off or nearly JSON, and the prompts in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from selma.prompts.final import is_thought, words

DEEPEST = 40  # levels of nesting that are read

# Values ----------------------------------------------------------------------------------------

# Where a value may begin: with a line, a list's item or another value, after a label or in a fence.
_HEAD = re.compile(
    r"(?:^[ \t>]*(?:(?:[-*•]|\(?\d{1,4}[.):]|```\w*)[ \t]*)?|(?<=[\]}>])[,;\s]*"
    r"|^(?![ \t]*(?:[-*•]|\(?\d{1,4}[.)]))[^\n\"'{]{0,100}(?:[:=(`]|return)\s*)"
    r"(?=[\[{](?:\s|//[^\n]*\n)*(?:[\[{\]}\"'“‘]|[\w-]+\s*[:,\]]))",
    re.MULTILINE,
)
# JSON's pieces, and what models take for them: single and curly quotes, bare keys, comments.
_PIECE = re.compile(
    r"(?:\s|//[^\n]*|\#[^\n]*)*"
    r"(?:(?P<mark>[\[\]{},:])"
    r"|(?P<text>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\\n]|\\.|(?<=\w)'(?=\w))*'|“[^”]*”|‘(?:[^’]|(?<=\w)’(?=\w))*’)"
    r"|(?P<bare>[\w.+-]+))",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": " ", "f": " "}


@dataclass(frozen=True)
class Found:
    """A list or an object that text[start:end] holds; of one that is not `whole`, what is whole in it."""

    value: Any
    start: int
    end: int
    whole: bool


def values(text: str) -> Iterator[Found]:
    """The lists and objects in a text, in order."""
    position = 0
    while head := _HEAD.search(text, position):
        found = _read(text, head.end())
        if found is not None:
            yield found
        position = head.end() + 1 if found is None else found.end


class _Bare(str):
    """A number, a literal or a key without quotes."""


def _read(text: str, start: int) -> Found | None:
    """The value that begins at `start`; None if no text or key is in it.

    In one that is broken or cut off, a text is whole if a comma, a bracket or the end follows it.
    """
    levels: list[
        tuple[list[Any] | dict[str, Any], list[str]]
    ] = []  # a container, and its key that has no value yet
    pending: list[Any] = []  # a value that nothing follows yet
    position, texts = start, 0

    def put() -> None:
        container, key = levels[-1]
        value = None if pending and isinstance(pending[0], _Bare) else pending[0] if pending else None
        if isinstance(container, list):
            container += [value] if pending else []
        elif pending and key:
            name = key.pop()
            twice = name in container and isinstance(value, str)  # {"prompt": ..., "prompt": ...}
            container[name] = [container[name], value] if twice else value
        pending.clear()

    while piece := _PIECE.match(text, position):
        mark = piece["mark"]
        if mark is None or mark in "[{":
            if pending or len(levels) > DEEPEST:
                pending.clear()
                break
            if mark:
                levels.append(([] if mark == "[" else {}, []))
            else:
                pending.append(_unquoted(piece["text"]) if piece["text"] else _Bare(piece["bare"]))
                texts += bool(piece["text"])
        elif mark == ":":
            container, key = levels[-1]
            if isinstance(container, list) or key or not pending or not isinstance(pending[0], str):
                pending.clear()
                break
            key.append(str(pending.pop()))
            texts += 1
        elif mark == ",":
            put()
        elif (mark == "]") != isinstance(levels[-1][0], list):
            pending.clear()
            break
        else:
            put()
            pending.append(levels.pop()[0])
            if not levels:
                return Found(pending[0], start, piece.end(), whole=True) if texts else None
        position = piece.end()
    if not texts:
        return None
    if text[position:].strip():
        pending.clear()
    while True:
        put()
        container = levels.pop()[0]
        if isinstance(container, dict):  # what its other texts are may stand in what is missing
            container = {k: v for k, v in container.items() if not isinstance(v, str) or _sure(k)}
        if not levels:
            return Found(container, start, position, whole=False)
        pending.append(container)


def _unquoted(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        return chr(int(match[1], 16)) if match[1] else _ESCAPED.get(match[2], match[2])

    return _ESCAPE.sub(plain, text[1:-1]) if text[0] in "\"'" else text[1:-1]


# Prompts ---------------------------------------------------------------------------------------

_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")  # of JSON Schema
_OTHER = re.compile(r"negative|system|user|original|old|examples?|bad|seed|input")
_TEXT = re.compile(r"texts?|captions?|descriptions?|sentence|content")
_BOX = re.compile(r"(?:answer|output|result|response|item|image|variation)s?|list|data")
# What is said about a prompt, or to the user.
_ABOUT = re.compile(
    r"id|styles?|skill|type|category|status|error|message|title|name|labels?|lang|language|model|role|mood|lighting|theme"
    r"|topic|difficulty|index|number|no|date|source|words|length|tags?|keywords|objects|colou?rs?|camera|medium|refusal"
    r"|warning|disclaimer|version|author|format|question|query|task|required|instructions?|rules|count|total|aspect|ratio"
)
_COUNTED = re.compile(
    r"first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|prompt|item|image|no"
)


def texts(value: Any, *, listed: bool = False) -> list[tuple[str, bool]]:
    """The texts of a value that are prompts, in order; with False those that may only hold a list of them.

    `listed` says that the value is one of several. An object gives the text that its keys name as the prompt, or its
    only one; where several may be meant, none.
    """
    return _texts(value, item=False, listed=listed, trusted=False, depth=0)


def _texts(value: Any, *, item: bool, listed: bool, trusted: bool, depth: int) -> list[tuple[str, bool]]:
    """`item`: a text here is a prompt; `trusted`: all in this object is, as it stands under such a name."""
    if isinstance(value, str):
        return [(value, item)]
    if depth > DEEPEST or not isinstance(value, (list, dict)):
        return []
    if isinstance(value, dict):
        return _of_object(value, listed=listed, trusted=trusted, depth=depth + 1)
    found = [_texts(one, item=True, listed=True, trusted=False, depth=depth + 1) for one in value]
    rows = [inner for one, inner in zip(value, found, strict=True) if isinstance(one, list)]
    if len(rows) > 1 and max(map(len, rows)) > 1:
        return []  # columns of which nobody says which is the prompt
    return [text for inner in found for text in inner]


def _of_object(
    value: Mapping[str, Any], *, listed: bool, trusted: bool, depth: int
) -> list[tuple[str, bool]]:
    def under(names: list[str], *, item: bool, trusted: bool) -> list[tuple[str, bool]]:
        inner = (_texts(said[name], item=item, listed=False, trusted=trusted, depth=depth) for name in names)
        return [text for texts in inner for text in texts]

    if value.get("type") in _TYPES and not any(
        _is_prompt(name) or name in ("text", "value") for name in value
    ):
        # The schema that was asked for, perhaps filled in.
        said = {
            name: value[name] for name in ("properties", "items") if isinstance(value.get(name), (list, dict))
        }
        return under(list(said), item=False, trusted=True)
    said = {
        name: one for name, one in value.items() if not is_thought(name) and "negative" not in words(name)
    }
    for sure in ({"prompts"}, {"prompt"}):
        if names := [name for name in said if name.lower() in sure]:
            return under(names, item=True, trusted=True)
    prompts = [name for name in said if _is_prompt(name)]
    boxes = [name for name in prompts if isinstance(said[name], (list, dict))]
    if boxes or len(prompts) == 1:
        return under(boxes or prompts, item=True, trusted=True)
    if numbered := [name for name in said if _is_number(name)]:
        return under(numbered, item=True, trusted=True)
    if prompts:
        return []

    rest = {name: one for name, one in said.items() if isinstance(one, dict) or not _any(_ABOUT, name)}
    boxes = [name for name, one in rest.items() if isinstance(one, (list, dict)) or _is_json(one)]
    plain = [name for name, one in rest.items() if isinstance(one, str) and name not in boxes]
    named = [name for name in plain if _any(_TEXT, name)]
    if listed and (named or len(plain) == 1):
        return under((named or plain)[:1], item=True, trusted=False)
    if not boxes and not plain and not listed:  # named after its skill: {"count": [...]}
        boxes = [name for name, one in said.items() if isinstance(one, list)]
    best = [name for name in boxes if _any(_BOX, name) or _any(_TEXT, name)] or boxes
    if best:
        return under(best, item=False, trusted=trusted) if len(best) == 1 or trusted else []
    sentences = all(" " in said[name].strip() for name in plain)
    if len(plain) > 1 and not named and sentences and (trusted or not listed):  # a mapping of texts
        return under(plain, item=True, trusted=False)
    only = (named or plain)[:1]
    return under(
        only, item=trusted or bool({"text", "caption"} & {name.lower() for name in only}), trusted=False
    )


def _is_prompt(name: str) -> bool:
    said = words(name)
    return (
        bool(said)
        and not _any(_OTHER, name)
        and (said[-1] in ("prompt", "prompts") or said == ["prompt", "text"])
    )


def _is_number(name: str) -> bool:
    """`1`, `prompt_1`, `Prompt A`, `first`."""
    said = words(name)
    if not all(len(word) == 1 or _COUNTED.fullmatch(word) for word in said):
        return False
    return any(char.isdigit() for char in name) or (
        bool(said) and said[-1] not in ("prompt", "item", "image", "no")
    )


def _any(pattern: re.Pattern[str], name: str) -> bool:
    return any(pattern.fullmatch(word) for word in words(name))


def _is_json(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip()[:1] in ("[", "{")


def _sure(name: str) -> bool:
    return _is_prompt(name) or _is_number(name)
