"""Reading prompts out of an LLM's reply: JSON, a numbered or bulleted list, whole or cut off.

A reply is read by its items. Incomplete items are dropped, and nothing is guessed.
"""

from __future__ import annotations

import json
import re
from typing import Any

# A server's words for "the reply was cut off": by max_tokens, by a content filter in mid-sentence, by itself.
CUT_OFF = frozenset({"length", "max_tokens", "content_filter", "abort"})

# What a reasoning model thought aloud; where its template opened the thought, only the end is in the reply.
_THOUGHT = re.compile(r"\A(?:(?!<think>).)*?</think>|<think>.*?(?:</think>|\Z)", re.DOTALL)
# Where JSON begins: in a fence, at the object that was asked for, or with the reply.
_JSON = re.compile(r"```(?:json)?\s*(?=[\[{])|(?=\{\s*\"prompts\"\s*:)|\A\s*(?=[\[{])")
_DECODER = json.JSONDecoder(strict=False)  # models write line breaks into strings
# "12. ", "12) ", "- " and the like, perhaps in bold; not the 3.5 of "3.5 metres" or the 2. of "2.5".
_MARKER = re.compile(r"\s*(?:\*\*|__)?(?:\d{1,4}[.)](?!\d)|[-*•](?=\s|$))(?:\*\*|__)?\s*(?P<text>.*)")
# How lines begin that follow a list and do not continue its last item.
_CHATTER = re.compile(
    r"let me know|feel free|i hope|hope (this|these)|would you like|do you want"
    r"|if you['\u2019 ](d|would|need|want)"
    r"|(these|those|the above) (are|prompts)|that['\u2019]s (all|it)|\(?note( that|:)|#|```|[-=_*]{3,}$",
    re.IGNORECASE,
)
_WRAPPED = re.compile(
    r'"([^"]*)"|`([^`]*)`|\*([^*]*)\*|\u201c([^\u201c\u201d]*)\u201d'
    # Single quotes, around apostrophes or not.
    r"|'((?:[^']|(?<=\w)'(?=\w))*)'|\u2018((?:[^\u2018\u2019]|(?<=\w)\u2019(?=\w))*)\u2019"
)


def parse_reply(text: str, finish_reason: str = "stop") -> list[str]:
    """The prompts in an LLM's reply, in order, each on one line; an empty list for a refusal or an empty reply.

    JSON is read where the reply holds some: `{"prompts": [...]}`, a bare list, or a mapping of texts, fenced
    or not. Broken or cut-off JSON gives the texts that are whole. Anything else is read by `parse_list`.
    """
    text = _THOUGHT.sub("", text)
    found = _JSON.search(text)
    items = [_clean(item) for item in _json_items(text[found.end() :])] if found else []
    marked = [_MARKER.match(item) for item in items]
    if items and all(marked):  # numbered again inside the JSON
        items = [_clean(match["text"]) for match in marked if match]
    return [item for item in items if _says_something(item)] or parse_list(text, finish_reason)


def _json_items(text: str) -> list[str]:
    """The texts of the JSON value that `text` begins with."""
    try:
        value, _ = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        value = _whole_items(text)
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
        value = value.get("prompts") or (lists[0] if len(lists) == 1 else list(value.values()))
    texts = [_text(item) for item in value] if isinstance(value, list) else []
    return [text for text in texts if text]


def _text(item: Any) -> str:
    """The text of a list's item: the item itself, or the only text of an object such as {"prompt": "..."}."""
    texts = [text for text in (item.values() if isinstance(item, dict) else [item]) if isinstance(text, str)]
    return texts[0] if len(texts) == 1 else ""


def _whole_items(text: str) -> list[Any]:
    """The items of the first list in broken JSON up to where it breaks; one must end in `,`, `]` or the end."""
    items: list[Any] = []
    position = text.find("[") + 1
    while position:
        try:
            item, end = _DECODER.raw_decode(text, _skip(text, position))
        except (ValueError, RecursionError):
            break
        end = _skip(text, end)
        if text[end : end + 1] not in (",", "]", ""):
            break
        items.append(item)
        position = end + 1 if text[end : end + 1] == "," else 0
    return items


def _skip(text: str, position: int) -> int:
    """The first position from `position` on that is not white space."""
    return len(text) - len(text[position:].lstrip())


def parse_list(text: str, finish_reason: str = "stop") -> list[str]:
    """The items of a numbered or bulleted list in an LLM's reply, in order, each on one line.

    Items are found by their markers, whatever the numbers say: skipped, restarted or repeated numbers lose nothing.
    Wrapped lines are joined, quotes and bold stripped, and what stands before the list, after it, or after a
    blank line within it is ignored. With a finish_reason in CUT_OFF the last item is dropped: it may be
    cut anywhere. An item without a letter or digit is dropped.
    """
    items: list[list[str]] = []
    inside = False  # whether a line without a marker continues the item before it
    for line in text.splitlines():
        if marked := _MARKER.match(line):
            items.append([marked["text"]])
            inside = True
        elif not line.strip() or _CHATTER.match(line.strip()):
            inside = False
        elif inside:
            items[-1].append(line)
    if finish_reason in CUT_OFF:
        items = items[:-1]
    cleaned = (_clean(" ".join(lines)) for lines in items)
    return [item for item in cleaned if _says_something(item)]


def _says_something(item: str) -> bool:
    return any(char.isalnum() for char in item)


def _clean(item: str) -> str:
    """The item on one line, without what a writer wraps around it."""
    item = " ".join(item.replace("**", "").replace("__", "").split())
    while True:
        bare = item.strip().removesuffix(",")
        if wrapped := _WRAPPED.fullmatch(bare):
            bare = next(group for group in wrapped.groups() if group is not None)
        if bare == item:
            return item
        item = bare
