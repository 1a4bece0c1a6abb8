"""The lists in a reply: numbered, bulleted, labelled, in a table or in markup; each item on one line.

A line is an item by its marker, whatever the number says. Of several kinds of markers the most telling one makes the
items; what hangs below an item (a sub-bullet, a line "Style: photo") is about it and is left out.
"""

from __future__ import annotations

import csv
import html
import re
import unicodedata
from dataclasses import dataclass, field

# Cleaning --------------------------------------------------------------------------------------

_WRAPPED = re.compile(
    r'"([^"]*)"|`([^`]*)`|\*([^*]*)\*|\u201c([^\u201c\u201d]*)\u201d|«([^«»]*)»|„([^„“”]*)[“”]|「([^「」]*)」'
    # Single quotes, around apostrophes or not.
    r"|'((?:[^']|(?<=\w)'(?=\w))*)'|\u2018((?:[^\u2018\u2019]|(?<=\w)\u2019(?=\w))*)\u2019"
)
_TAG = re.compile(r"<[/|｜!]?[A-Za-z|｜][^<>]*>|\[/?(?:THINK|INST|BOS|EOS)\]|<!\[CDATA\[|\]\]>")
# "**Kites:** two red kites": a name for the item, not a part of it.
_TITLE = re.compile(r"\s*(?:\*\*|__)[^*_]{1,60}?(?:\s*[:：]\s*(?:\*\*|__)|(?:\*\*|__)\s*[:：])\s*(?=\S)")
_LENGTH = re.compile(r"\s*[(\[]\d+ words?[)\]]$")
_UNSEEN = {"Cc", "Cs"}  # control characters, halves of characters
_HIDDEN = frozenset(
    "\ufeff\u200b\u00ad\ufffd\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069"
)


def clean(item: str) -> str:
    """The item on one line, without what a writer wraps around it; empty if it says nothing."""
    item = _TITLE.sub("", html.unescape(_TAG.sub(" ", item)), count=1)
    item = readable(_TAG.sub(" ", item).replace("**", "").replace("__", ""))
    while True:
        bare = _LENGTH.sub("", item.strip()).removesuffix(",").strip()
        if wrapped := _WRAPPED.fullmatch(bare):
            bare = next(group for group in wrapped.groups() if group is not None)
        if bare == item:
            return item if any(char.isalnum() for char in item) else ""
        item = bare


def readable(text: str) -> str:
    """The text on one line, without control characters, halves of characters and invisible marks."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # two halves are a whole
    seen = (c for c in text if c.isspace() or (c not in _HIDDEN and unicodedata.category(c) not in _UNSEEN))
    return " ".join("".join(seen).split())


# Lines -----------------------------------------------------------------------------------------

_BOLD = r"(?:\*\*\*|\*\*|\*(?=\S)|___|__|_)?"
_NOUN = (
    r"(?:(?:new|image|text|final|sample)\s+)?(?:prompt|caption|item|example|option|number|no\.?|nr\.?|№|#)"
)
_MARKER = re.compile(
    rf"(?P<indent>\s*)(?P<quote>(?:>[ \t]*)*)(?:\#{{1,6}}\s+)?(?P<bold>{_BOLD})(?:"
    # "Prompt 1: ", "#1 "; "1. ", "(1) ", "1: ", "１．", "1、", not the 3.5 of "3.5 metres" or the 16: of "16:9".
    rf"(?P<number>{_NOUN}\s*[#№]?\s*(?P<n1>\d{{1,4}})(?=\W|$)\s*{_BOLD}\s*(?:[.):：、．）=\]|–—-](?!\d)|$|(?<=\*\*))"
    r"|\#(?P<n2>\d{1,4})(?=\s)|[(（]?(?P<n3>\d{1,4})(?:\\?[.):：．）、。]\)?|\.\)|[,;](?=\s*[\"“])|\t|\s+[-–—](?=\s))(?!\d)"
    r"|(?P<n4>\d{1,2})\ufe0f?\u20e3|(?P<n5>[①-⒛⓪-⓿❶-➓])[.)]?|[一二三四五六七八九十]{1,3}[、．.)）])"
    r"|(?P<label>(?:(?:new|image|text|final)\s+)?(?:prompt|caption|text)(?:\s+text)?\s*(?:\*\*|__|\*)?\s*[:：=](?=\s*\S))"
    r"|(?P<letter>[(（]?(?:[A-Za-z]|[ivxIVX]{2,5})[.)）](?=\s))"
    r"|(?P<bullet>(?:[-*+•‣◦▪▫■□●○–—·∙►▶➤→✓✔☑✅🔹🔸🔷🔶👉⭐✨]\ufe0f?)(?=\s|$)(?:\s+\[[ xX]\](?=\s))?)"
    rf"|(?P<bracket>\[\d{{1,4}}\]))\s*(?P<unbold>\*\*|__|[*_](?=\s))?\s*(?P<text>.*)",
    re.IGNORECASE,
)
# How lines begin that follow a list and do not continue its last item.
_CHATTER = re.compile(
    r"let me know|feel free|i hope|hope (this|these)|would you like|do you want"
    r"|if you['\u2019 ](d|would|need|want)"
    r"|(these|those|the above) (are|prompts)|that['\u2019]s (all|it)|\(?note( that|:)|#|```|[-=_*]{3,}$"
    r"|(sure|okay|certainly|of course|great)[!,]|here (are|is) .*:$|[*_]?\(.*\)[*_]?$|(→|=>|->|//)",
    re.IGNORECASE,
)
# "Style: photo" and the like, which say something about an item.
_ATTRIBUTE = re.compile(
    r"[*_]{0,3}(?:[A-Z][\w'/-]*(?:\s[\w'/&-]+){0,2}|(?i:style|mood|lighting|tags?|skill|category|words?|word count"
    r"|count|negative(?:[ _]prompt)?|explanation|rationale|reason(?:ing)?|why|notes?"
    r"|setting|subject|id|type|topic|theme))"
    r"[*_]{0,3}\s*[:：=]"
)
CONTINUES = 2  # columns by which a marker is indented below its item


@dataclass
class _Item:
    """What stands at a marker: its text, and the lines that continue it."""

    kind: str  # number, label, letter, bullet or bracket
    indent: int
    number: int | None
    quoted: bool
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(self.lines)

    @property
    def titles(self) -> bool:
        """Whether it only names what hangs below it."""
        bare = clean(self.text)
        return not bare or bare.endswith((":", "："))


def list_items(text: str) -> list[str]:
    """The items of the list in a text, in order, as they are written."""
    items: list[_Item] = []
    inside = False  # whether a line without a marker continues the item before it
    lines = text.splitlines()
    # In a numbered list "A. Rackham" is a name.
    numbered = any(item.kind in ("number", "bullet") for item in map(_marked, lines) if item)
    for line in lines:
        bare = line.strip()
        item = _marked(line)
        if item and not (numbered and item.kind == "letter" and bare[0].isupper() and bare[1] == "."):
            items.append(item)
            inside = True
        elif not bare:
            inside = inside and not clean(items[-1].text)  # "Prompt 1", and the prompt below it
        elif inside and _ATTRIBUTE.match(bare):
            inside = not clean(items[-1].text)
        elif _CHATTER.match(bare):
            inside = False
        elif inside:
            items[-1].lines.append(line)
    return [item.text for item in _chosen(items)]


def _marked(line: str) -> _Item | None:
    """The item that begins with a line, if one does; of "- 1. " and "1. Prompt: " the second marker counts."""
    marked = _MARKER.match(line)
    if not marked:
        return None
    text = marked["text"] if marked["bold"] else (marked["unbold"] or "") + marked["text"]
    kind = next(
        name for name in ("number", "label", "letter", "bullet", "bracket") if marked[name] is not None
    )
    inner = _MARKER.match(text)
    if inner and (
        inner["label"] or (inner["number"] and (inner["n1"] or (kind == "bullet" and inner["n3"])))
    ):
        kind, text = ("number" if kind == "number" or inner["number"] else "label"), inner["text"]
        marked = marked if kind == "number" and marked["number"] else inner
    written = next((marked[name] for name in ("n1", "n2", "n3", "n4", "n5") if marked[name]), None)
    number = (
        int(unicodedata.numeric(written))
        if written and len(written) == 1
        else int(written)
        if written
        else None
    )
    indent = len(re.match(r"\s*", line)[0].expandtabs(4))
    if text.strip() in (">", "|", ">-", "|-"):  # YAML: the text is on the next lines
        text = ""
    return _Item(kind, indent, number, ">" in (marked["quote"] or ""), [text])


def unmarked(line: str) -> str | None:
    """What follows the marker of a line; None if it has none."""
    item = _marked(line)
    return item.text if item else None


def _chosen(items: list[_Item]) -> list[_Item]:
    """The items that are prompts: of one kind and one level, or what hangs below those that are mere titles."""
    if any(not item.quoted for item in items):  # a thought or an echo, quoted
        items = [item for item in items if not item.quoted]
    kinds = [item.kind for item in items]
    first = {kind: min(item.indent for item in items if item.kind == kind) for kind in set(kinds)}
    kind = next((kind for kind in ("number", "letter", "bracket", "bullet", "label") if kind in first), "")
    if "label" in first and 2 * kinds.count("label") >= kinds.count(kind):
        kind = "label"
    elif "bullet" in first and kind != "bullet" and kinds.count(kind) == 1 and first["bullet"] <= first[kind]:
        kind = "bullet"
    chosen: list[_Item] = []
    top: _Item | None = None  # the item below which the next ones may hang
    below: int | None = None  # by how many columns they do
    for item in items:
        hangs = top is not None and item.indent >= (top.indent + CONTINUES if below is None else below)
        counts_on = below is None and top is not None and None not in (item.number, top.number)
        if item.kind == kind and not (hangs and not (counts_on and item.number == top.number + 1)):
            chosen.append(item)
            top, below = item, None
        elif top is not None and (hangs or item.kind != kind):
            below = item.indent if below is None and hangs else below
            if kind != "label" and top.titles and not _ATTRIBUTE.match(clean(item.text)):
                if chosen[-1] is top:
                    chosen.pop()
                chosen.append(item)
    return chosen


# Other layouts ---------------------------------------------------------------------------------

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


_ELEMENTS = ("prompt", "item", "caption", "text", "output", "result", "p")
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
        return {"b": "**", "strong": "**", "br": "\n", "p": "\n", "div": "\n", "tr": "\n"}.get(name, "")

    text = re.sub(r"<(/?)(ol|ul|li|br|b|strong|p|div|tr|td|i|em)\b[^<>]*>", line, text, flags=re.IGNORECASE)
    return _TAG.sub("", text)


def quoted_lines(text: str) -> list[str]:
    """The texts of lines that are quoted from end to end, if there are several."""
    found = [line.strip().removesuffix(",") for line in text.splitlines()]
    found = [line for line in found if len(line) > 2 and line[0] in '"“' and line[-1] in '"”']
    return found if len(found) > 1 else []
