"""What a reply holds that is neither JSON nor a list of lines: tables, elements of markup, quoted lines."""

from __future__ import annotations

import csv
import html
import re

from selma.prompts.cleaning import ABOUT, TAG, clean

_COLUMN = re.compile(r"(?:new |image |text )?(?:prompts?|captions?|text)", re.IGNORECASE)


def table_items(text: str) -> list[str]:
    """The cells below "Prompt" in a table of Markdown or CSV; without that header, those of the only column of text."""
    for delimiter in "|\t,;":
        rows = [_cells(line, delimiter) for line in text.splitlines() if delimiter in line]
        rows = [row for row in rows if not all(re.fullmatch(r":?-*:?", cell) for cell in row)]
        for number, header in enumerate(rows):
            found = [i for i, cell in enumerate(header) if _COLUMN.fullmatch(clean(cell))]
            if len(header) > 1 and found:
                return [row[found[0]] for row in rows[number + 1 :] if len(row) == len(header)]
        if delimiter == "|" and len(rows) > 1 and all(len(row) == len(rows[0]) for row in rows):
            texts = [
                i
                for i, column in enumerate(zip(*rows[1:], strict=True))
                if any(re.search(r"[^\W\d]", cell) for cell in column)
            ]
            if len(texts) == 1:
                return [row[texts[0]] for row in rows[1:]]
    return []


def _cells(line: str, delimiter: str) -> list[str]:
    if delimiter == "|":
        return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
    try:
        return [
            cell.strip()
            for cell in next(csv.reader([line.strip()], delimiter=delimiter, skipinitialspace=True), [])
        ]
    except csv.Error:
        return []


_ELEMENTS = (r"prompt[_\d]*", "item", "caption", "text", "output", "result")
_INLINE = r"(?:b|i|em|strong|span|code|u|s|a|br|mark|small|q)\b"


def element_items(text: str) -> list[str]:
    """The contents of elements such as <prompt>; of one that has elements itself, its <text> or what is in none."""
    for name in _ELEMENTS:
        found = re.findall(
            rf"<{name}\b[^<>]*(?<!/)>((?:(?!<{name}\b).)*?)</{name}\s*>", text, re.DOTALL | re.IGNORECASE
        )
        if found:
            return [_own_text(inner) for inner in found]
    return []


def _own_text(inner: str) -> str:
    named = re.search(
        r"<(text|caption|content|description|prompt)\b[^<>]*>(.*?)</\1\s*>", inner, re.DOTALL | re.IGNORECASE
    )
    if named:
        return named[2]
    return re.sub(rf"<(?!{_INLINE})(\w+)\b[^<>]*>.*?</\1\s*>", " ", inner, flags=re.DOTALL | re.IGNORECASE)


def as_lines(text: str) -> str:
    """HTML's lists, line breaks and bold as a text has them; other marks are dropped."""
    depth = 0

    def line(match: re.Match[str]) -> str:
        nonlocal depth
        name = match[2].lower()
        if name in ("ol", "ul"):
            depth = max(depth + (-1 if match[1] else 1), 0)
            return "\n"
        if name == "li":
            return "\n" if match[1] else "\n" + "    " * max(depth - 1, 0) + "- "
        if name in ("td", "th"):
            return "" if match[1] else "|"
        return {"b": "**", "strong": "**", "br": "\n", "p": "\n", "div": "\n", "tr": "\n"}.get(name, "")

    text = re.sub(
        r"<(/?)(ol|ul|li|br|b|strong|p|div|tr|td|th|i|em)\b[^<>]*>", line, text, flags=re.IGNORECASE
    )
    text = re.sub(rf"<({ABOUT})\b[^<>]*>[^<>]*</\1\s*>", "", text, flags=re.IGNORECASE)
    return html.unescape(TAG.sub("", text))


# A block of a name that nobody knows: what a model writes beside the answer, unless it is all there is.
_BLOCK = re.compile(
    r"<(?!(?:[ou]l|li|p|div|table|t\w|b|i|em|strong|span|code|pre|section|\w*(?:prompt|item|list|json|xml)\w*)\b)([a-z]\w*)\b"
    r"[^<>]*>(?:(?!</?\1\b).)*\n(?:(?!</?\1\b).)*</\1\s*>",
    re.IGNORECASE | re.DOTALL,
)


def without_blocks(text: str) -> str:
    """The text without blocks of unknown elements."""
    return _BLOCK.sub("", text)


def quoted_lines(text: str) -> list[str]:
    """The texts of lines that are quoted from end to end, if there are several."""
    found = [line.strip().removesuffix(",") for line in text.splitlines()]
    found = [line for line in found if len(line) > 2 and line[0] in '"“' and line[-1] in '"”']
    return found if len(found) > 1 else []
