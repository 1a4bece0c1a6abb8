"""Reading prompts out of an LLM's reply: JSON, a list, a table or markup, whole or cut off, after any thoughts.

A reply is read by its items. Incomplete items are dropped, and nothing is guessed.
"""

from __future__ import annotations

import re

from selma.prompts import layouts, lists
from selma.prompts.cleaning import clean
from selma.prompts.final import final_part
from selma.prompts.objects import texts, values

# Servers' words for "the reply was cut off": by max_tokens, by a content filter in mid-sentence, by themselves.
TOO_LONG = re.compile(r"length|max_(?:output_)?tokens|model_length|token_limit|incomplete", re.IGNORECASE)
FILTERED = re.compile(r"content_filter|safety|recitation|sensitive", re.IGNORECASE)
CUT_OFF = re.compile(
    rf"{TOO_LONG.pattern}|{FILTERED.pattern}|abort|cancelled|(?:network_)?error", re.IGNORECASE
)


# A terminal's colours; marks of order and of direction, which stand before markers, unseen.
_NOISE = re.compile("\x1b\\[[0-9;]*m|[\ufeff\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069]")

# A refusal; the list that follows one holds its reasons, or what the model would rather do.
_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]?m|i am|we['’]?re|we are) (?:so |very |really |truly )?sorry\b|sorry\b|(?:i|we) apologi[sz]e\b"
    r"|my apologies\b|unfortunately\b|as an ai\b)?.{0,60}?\b(?:i|we)(?:['’]m| am|['’]re| are)?"
    r" ?(?:can ?not|can['’]?t|won['’]?t|will not|not able|unable|must decline|not comfortable)\b"
    r"(?! (?:wait|stress|help but)).{0,40}?"
    r"\b(?:help|assist|writ|provid|creat|generat|produc|fulfil|compl|do|answer|continu)",
    re.IGNORECASE,
)


def parse_reply(text: str, finish_reason: str = "stop") -> list[str]:
    """The prompts in an LLM's reply, in order, each on one line; an empty list for a refusal or an empty reply.

    Thoughts are left out. JSON is read where the rest holds some: `{"prompts": [...]}`, a bare list, a mapping of
    texts, JSON Lines, fenced or not. Broken or cut-off JSON gives the texts that are whole. Anything else is read by
    `parse_list`.
    """
    return _parse(final_part(_NOISE.sub("", text)), finish_reason, depth=0)


def _parse(text: str, finish_reason: str, depth: int) -> list[str]:
    if "}" in (boxed := text.partition("\\boxed{")[2]):
        text = boxed.rpartition("}")[0]
    rest = layouts.without_blocks(text)
    return (_items(rest, finish_reason, depth) if rest != text else []) or _items(text, finish_reason, depth)


def _items(text: str, finish_reason: str, depth: int) -> list[str]:
    found = list(values(text))
    listed = sum(bool(texts(one.value, listed=True)) for one in found) > 1  # JSON Lines
    items: list[str] = []
    for one in found:
        for said, is_item in texts(one.value, listed=listed):
            inner = _within(said, depth)
            items += inner or ([clean(said)] if is_item else [])
    items = [item for item in _unmarked(items) if not item.endswith((":", "："))]  # "Here they are:"
    if found:  # what is no list in the JSON is none beside it
        outside = [a.end for a in found]
        starts = [b.start for b in found[1:]] + [len(text)]
        text = text[: found[0].start] + "\n".join(
            text[end:start] if one.whole else ""
            for one, end, start in zip(found, outside, starts, strict=True)
        )
    return [item for item in items if item] or parse_list(text, finish_reason)


def _unmarked(items: list[str]) -> list[str]:
    """The items without the markers that all of them begin with, once more."""
    marked = [lists.unmarked(item) for item in items]
    return [clean(item) for item in marked if item] if all(marked) else items


def _within(said: str, depth: int) -> list[str]:
    """The prompts of a list or of JSON that is written into a text of JSON."""
    if depth > 3 or not ("\n" in said.strip() or said.lstrip()[:1] in ("[", "{")):
        return []
    return _parse(final_part(said), "stop", depth + 1)


def parse_list(text: str, finish_reason: str = "stop") -> list[str]:
    """The items of a numbered or bulleted list in an LLM's reply, in order, each on one line.

    Items are found by their markers, whatever the numbers say: skipped, restarted or repeated numbers lose nothing.
    Wrapped lines are joined, quotes and bold stripped, and what stands before the list, after it, below an item, or
    after a blank line within it is ignored. With a finish_reason of CUT_OFF the last item is dropped: it may be
    cut anywhere. An item without a letter or digit is dropped.
    """
    if _REFUSAL.match(text.strip()):
        return []
    if "\n" not in text.strip() and "\\n" in text:  # escaped once too often
        text = text.strip().strip("\"'").replace("\\n", "\n")
    if elements := layouts.element_items(text):
        found = [item for inner in elements for item in lists.list_items(inner)]
        return _cleaned(found if len(found) >= len(elements) else elements)
    lines = layouts.as_lines(text)
    items = lists.list_items(lines)
    if table := layouts.table_items(lines):
        items = table
    elif not items:
        items = _unmarked(layouts.quoted_lines(lines))
    return _cleaned(items[:-1] if CUT_OFF.fullmatch(finish_reason) else items)


def _cleaned(items: list[str]) -> list[str]:
    return [item for item in map(clean, items) if item]
