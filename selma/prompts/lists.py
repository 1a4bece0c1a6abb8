"""The list in a reply: numbered, bulleted or labelled lines.

A line is an item by its marker, whatever the number says. Of several kinds of markers the most telling one makes the
items; what hangs below an item (a sub-bullet, a line "Style: photo") is about it and is left out.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from itertools import pairwise

from selma.prompts.cleaning import ABOUT, clean
from selma.prompts.final import is_aside

_DIGITS = r"\d{1,4}"
_WORD = r"(?:one|two|three|four|five|six|seven|eight|nine|ten|[a-z])"
_ORDINAL = r"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|\d{1,3}(?:st|nd|rd|th))"
_NOUN = r"(?:(?:new|image|text|final|sample)\s+)?(?:prompt|caption|item|example|option)"
_SIGN = rf"(?:(?:{_NOUN}|number)[\s_]*)?(?:n[or]\.?|n°|№|\#)"
_BOLD = r"(?:\*{1,3}(?=\S)|_{1,3})?"
_MARKER = re.compile(
    rf"""
    \s*(?P<quote>(?:>[ ]?)*)\s*(?:\#{{1,6}}\s+)?(?P<bold>{_BOLD})
    (?:(?P<number>
        # "Prompt 1: ", "Prompt #1 ", "**Prompt 1**", "Prompt A: ", "First prompt: ", "Scene 1: "
        (?:(?:{_NOUN}[\s_]*|{_SIGN}\s*)(?P<n1>{_DIGITS})(?!\w)|{_NOUN}[\s_]+{_WORD}(?=\s*[*_]*\s*[:.)]))
            \s*[*_]{{0,3}}\s*(?:[.):：、．）=\]|–—-](?!\d)|$|(?<=\*\*))
        |{_ORDINAL}(?:\s+{_NOUN})?\s*[*_]{{0,3}}\s*[:：]
        |(?P<noun>[^\W\d_]{{1,20}})\s?(?P<n2>{_DIGITS})\s*[*_]{{0,3}}\s*[:：](?!\d)
        # "1. ", "(1) ", "1: ", "１．", "1、", "1.2. ", '"1": '; not the 3.5 of "3.5 metres" or the 16: of "16:9"
        |\#(?P<n3>{_DIGITS})(?=\s)|["'](?P<n4>{_DIGITS})["']\s*:
        |[(（【［〔{{<第]?(?:\d{{1,3}}\.)*(?P<n5>{_DIGITS})[条个項项]?
            (?:[ ]?\\?[.):：．）、。\]】］〕}}>/°º]\)?(?:[-–:.](?=\s))?|\.\)|[,;](?=\s*["“])|\t|\s*[-–—](?=\s))(?!\d)
        |(?P<n6>\d{{1,2}})\ufe0f?\u20e3|🔟|(?P<n7>[①-⒛⓪-⓿❶-➓])[.)]?|第?[一二三四五六七八九十]{{1,3}}[、．.)）：]
        |\#\.(?=\s)|\\item\b(?:\[[^\]]*\])?
    )
    |(?P<label>["']?(?:(?:new|image|text|final)\s+)?(?:prompt|caption|text)(?:\s+text)?["']?\s*[*_]{{0,2}}\s*[:：=])
    |(?P<letter>[(（]?(?:[A-Za-z]|[ivxIVX]{{2,5}})[.)）](?=\s))
    |(?P<bullet>(?:\\?(?:[-*+]|\.(?=\s+\w))|[•‣–—·∙\u2190-\u23ff\u2500-\u2bff\U0001F000-\U0001FAFF]|(?-i:o))\ufe0f?(?=\s|$))
    |(?P<bracket>\[{_DIGITS}\][.:)]?)
    )(?:\s+\[[ xX]\](?=\s))?\s*(?P<unbold>\*\*|__|[*_](?=\s))?\s*(?P<text>.*)
    """,
    re.IGNORECASE | re.VERBOSE,
)
# How lines begin that follow a list and do not continue its last item.
_FAREWELL = re.compile(
    r"let me know|feel free|would you like|do you want|i hope|hope (this|these)", re.IGNORECASE
)
_CHATTER = re.compile(
    r"let me know|feel free|i hope|hope (this|these)|would you like|do you want|enjoy[!.]|thank you|thanks[!,.]"
    r"|happy to (help|write)|if you['\u2019 ](d|would|need|want)|i(['\u2019]ve| have| tried| made| kept| varied) "
    r"|(all|each) (of )?(the |these )?prompt|this (prompt|one|tests|checks)\b|(these|those|the above) (are|prompts)"
    r"|that['\u2019]s (all|it)|\(?note( that|:)|#|```|~~~|[-=_*]{3,}$|\\|(sure|okay|certainly|of course|great)[!,]"
    r"|here (are|is) .*:$"
    r"|(?-i:\[?(END|DONE|EOF|STOP)\]?[.!]?$)|done[.!]?$|[*_]?\(.*\)[*_]?$|\[.*[:=].*\]$|(=>|->|//|>)",
    re.IGNORECASE,
)
# "Style: photo", "Style - photo" and the like, which say something about an item.
_ATTRIBUTE = re.compile(
    r"[*_`]{0,3}(?:[A-Z][\w'/-]*(?:\s[A-Za-z&][\w'/&-]*){0,2}[*_]{0,3}[:：](?!:)"
    rf"|(?i:{ABOUT}|word count|negative[ _]prompt|id|type|topic|theme)[*_]{{0,3}}\s*([:：=]|[-–—]\s))"
)
_HEADED = re.compile(r"\s*(?:#{1,6}\s.*|\*\*[^*]+\*\*|\W*\w{1,4}\W+\*\*[^*]+\*\*)\s*")
CONTINUES = 2  # columns by which a marker is indented below its item


@dataclass
class _Item:
    """What stands at a marker: its text, and the lines that continue it."""

    kind: str  # number, label, letter, bullet or bracket
    indent: int
    number: int | None
    quoted: bool
    heading: bool  # its line is in bold or a heading: what follows is the item
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(self.lines[self.heading and len(self.lines) > 1 :])

    @property
    def waits(self) -> bool:
        """Whether the item itself is still to come, as below "Prompt 1"."""
        return (self.heading and len(self.lines) == 1) or not any(map(clean, self.lines))

    @property
    def titles(self) -> bool:
        """Whether it only names what hangs below it."""
        bare = clean(self.text)
        return not bare or bare.endswith((":", "："))

    def names(self, item: _Item) -> bool:
        """Whether it is a title in bold, "**Kites**", of the item that hangs below it."""
        own, other = (len(clean(one.text).split()) for one in (self, item))
        return self.heading and len(self.lines) == 1 and own <= 2 < other

    @property
    def describes(self) -> bool:
        """Whether it is like "Style: photo"."""
        return bool(_ATTRIBUTE.match(clean(self.text)))


def list_items(text: str) -> list[str]:
    """The items of the list in a text, in order, as they are written."""
    items: list[_Item] = []
    inside = False  # whether a line without a marker continues the item before it
    lines = text.splitlines()
    kinds = {item.kind for item in map(_marked, lines) if item}
    for line in lines:
        bare = line.strip()
        if items and items[-1].waits:
            bare = bare.removeprefix("> ")
            if bare.startswith("```"):
                inside = True
                continue
        if items and not inside and _FAREWELL.match(bare):
            break
        item = _marked(line)
        if item and not _continues(item, bare, kinds):
            items += _on_one_line(item)
            inside = True
        elif not bare:
            inside = inside and not any(map(clean, items[-1].lines))  # "Prompt 1", and the prompt below it
        elif inside and _ATTRIBUTE.match(bare.lstrip("-–— .0123456789")):
            inside = not any(map(clean, items[-1].lines))
        elif _CHATTER.match(bare):
            inside = False
        elif inside:
            items[-1].lines.append(bare)
    return [item.text for item in _chosen(items)]


def _continues(item: _Item, line: str, kinds: set[str]) -> bool:
    """Whether what looks like a marker is text: in a list of other markers "A. Rackham" is a name, "— photo" a dash."""
    if item.kind == "letter":
        return bool({"number", "bullet"} & kinds) and line[0].isupper() and line[1] == "."
    return "number" in kinds and item.kind == "bullet" and line[0] in "–—" and not item.describes


def _marked(line: str) -> _Item | None:
    """The item that begins with a line, if one does; of "- 1. " and "1. Prompt: " the second marker counts."""
    # Runs of blanks made short: the pattern goes back and forth over them.
    marked = _MARKER.match(re.sub(r"\s{2,}", lambda run: "\t" if "\t" in run[0] else " ", line.strip()))
    if not marked or (marked["noun"] and is_aside(marked["noun"])):  # "Step 1: "
        return None
    kind = _kind(marked)
    unclosed = marked["bold"] == "**" and not marked["unbold"] and "**" in marked["text"]
    begun = "**" if unclosed else "" if marked["bold"] else marked["unbold"] or ""
    text = begun + marked["text"]
    inner = _MARKER.match(text)
    if inner and kind == "number" and (inner["bullet"] or "x") in "-*+•‣–—·→":  # "1. - two red kites"
        text = inner["text"]
    elif inner and (inner["label"] or inner["n1"] or (kind == "bullet" and inner["n5"])):
        text = inner["text"]
        if kind != "number":
            kind, marked = _kind(inner), inner
    written = next((marked[f"n{group}"] for group in range(1, 8) if marked[f"n{group}"]), None)
    number = (
        None
        if written is None
        else int(written)
        if written.isdecimal()
        else int(unicodedata.numeric(written))
    )
    if text.strip() in (">", "|", ">-", "|-"):  # YAML: the text is on the next lines
        text = ""
    indent = len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip())
    heading = bool(_HEADED.fullmatch(line))
    return _Item(kind, indent, number, ">" in marked["quote"], heading, [text])


def _kind(marked: re.Match[str]) -> str:
    return next(
        kind for kind in ("number", "label", "letter", "bullet", "bracket") if marked[kind] is not None
    )


def _on_one_line(item: _Item) -> list[_Item]:
    """The items of "1. two red kites 2. five blue cups"."""
    found = [item]
    while item.number is not None:
        cut = re.search(rf"[\s;,]+[(]?{item.number + 1}[.)]\s+(?=\S)", item.lines[0])
        if not cut:
            break
        line = item.lines[0]
        item.lines = [line[: cut.start()]]
        item = _Item(item.kind, item.indent, item.number + 1, item.quoted, False, [line[cut.end() :]])
        found.append(item)
    return found


def unmarked(line: str) -> str | None:
    """What follows the marker of a line; None if it has none."""
    item = _marked(line)
    return item.text if item else None


def _hang_below_bullets(items: list[_Item], kind: str, indent: int) -> bool:
    """Whether items of a kind hang below several bullets that are prompts themselves, not titles."""
    pairs = [
        (above, below)
        for above, below in pairwise(items)
        if above.kind == "bullet" and above.indent == indent and below.kind == kind
    ]
    return len(pairs) > 1 and all(
        below.indent >= indent + CONTINUES and not above.titles and not _HEADED.fullmatch(above.text)
        for above, below in pairs
    )


def _chosen(items: list[_Item]) -> list[_Item]:
    """The items that are prompts: of one kind and one level, or what hangs below those that are mere titles."""
    if any(not item.quoted for item in items):  # a thought or an echo, quoted
        items = [item for item in items if not item.quoted]
    telling = [item for item in items if item.kind not in ("letter", "bullet") or not item.describes] or items
    kinds = [item.kind for item in telling if item.kind != "label" or clean(item.text)]
    first = {kind: min(item.indent for item in telling if item.kind == kind) for kind in set(kinds)}
    kind = next((kind for kind in ("number", "letter", "bracket", "bullet", "label") if kind in first), "")
    if "label" in first and 2 * kinds.count("label") + (first["label"] > first[kind]) > kinds.count(kind):
        kind = "label"
    elif "bullet" in first and (
        (kinds.count(kind) == 1 and first["bullet"] <= first[kind])
        or _hang_below_bullets(items, kind, first["bullet"])
    ):
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
            named = chosen[-1] is top and hangs and top.names(item)
            if kind != "label" and (top.titles or named) and not item.describes:
                if chosen[-1] is top:
                    chosen.pop()
                chosen.append(item)
    return chosen
