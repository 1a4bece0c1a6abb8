"""An item without what a writer wraps around it: quotes, bold, titles, remarks, markup, what no one sees."""

from __future__ import annotations

import html
import re
import unicodedata

_WRAPPED = re.compile(
    r'"([^"]*)"|`([^`]*)`|\*([^*]*)\*|\u201c([^\u201c\u201d]*)\u201d|«([^«»]*)»|„([^„“”]*)[“”]|「([^「」]*)」|『([^『』]*)』|_([^_]*)_'
    # Single quotes, around apostrophes or not.
    r"|'((?:[^']|(?<=\w)'(?=\w))*)'|\u2018((?:[^\u2018\u2019]|(?<=\w)\u2019(?=\w))*)\u2019"
)
TAG = re.compile(r"<[/|｜!]?[A-Za-z|｜][^<>]*>|\[/?(?:THINK|INST|BOS|EOS)\]|<!\[CDATA\[|\]\]>")
# "**Kites:** two red kites": a name for the item, not a part of it.
_TITLE = re.compile(r"\s*(?:\*\*|__)[^*_]{1,60}?(?:\s*[:：]\s*(?:\*\*|__)|(?:\*\*|__)\s*[:：])\s*(?=\S)")
# '"two red kites" - they fly': what is said about an item that is quoted.
_REMARK = re.compile(r"""(["“])([^"“”]{8,})["”]\s*(?:[-–—:]\s|[(\[]).*""")
# What a line or a bracket may be about, if not the picture.
ABOUT = r"style|mood|lighting|tags?|skill|category|words?|count|negative|explanation|rationale|reason(ing)?|why|notes?"
_SUFFIX = re.compile(rf"\s*[(\[{{](?:\d+ words?|(?:{ABOUT})\s*[:=][^()\[\]{{}}]*)[)\]}}]$", re.IGNORECASE)
_UNSEEN = {"Cc", "Cs"}  # control characters, halves of characters
_HIDDEN = frozenset(
    "\ufeff\u200b\u00ad\ufffd\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069"
)


def clean(item: str) -> str:
    """The item on one line, without what a writer wraps around it; empty if it says nothing."""
    item = re.sub(r"~~[^~]*~~", "", html.unescape(TAG.sub(" ", " ".join(item.split()))))
    item = _TITLE.sub("", item, count=1)
    item = readable(TAG.sub(" ", item).replace("**", "").replace("__", ""))
    while True:
        bare = _SUFFIX.sub("", item.strip()).rstrip(",;").strip()
        if remark := _REMARK.fullmatch(bare):
            bare = remark[2]
        if wrapped := _WRAPPED.fullmatch(bare) or _WRAPPED.fullmatch(bare.removesuffix(".")):
            bare = next(group for group in wrapped.groups() if group is not None)
        if bare == item:
            return item if any(char.isalnum() for char in item) else ""
        item = bare


def readable(text: str) -> str:
    """The text on one line, without control characters, halves of characters and invisible marks."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # two halves are a whole
    seen = (c for c in text if c.isspace() or (c not in _HIDDEN and unicodedata.category(c) not in _UNSEEN))
    return " ".join("".join(seen).split())
