"""What OpenAI-compatible servers say when they do not answer, each in its own words: which field, when again, why."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

# Other words for a field.
_ALSO = {
    "response_format": r"json[_\- ]?(?:schema|mode|object)|structured[_\- ]?outputs?|grammar|guided[_\- ]?\w+",
    "logprobs": r"top[_\- ]?logprobs|log[_\- ]?prob\w*",
    "max_tokens": r"max[_\- ]?(?:output|new)[_\- ]?tokens",
}
# Keys under which errors name the field, over the libraries that servers are made with.
_POINTERS = {"param", "params", "parameter", "loc", "field", "fieldViolations", "path", "location"}
_TOGETHER = re.compile(
    r"\b(?:both|together|simultaneously|either|only one|one of|combin\w+|mutually|exclusive|same time|conflict\w*"
    r"|along|alongside|with (?!this\b|the\b))",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"support|unknown|unrecogni[sz]ed|unexpected|extra|permitted|allowed|invalid|forbidden|refused|not available",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"too (?:large|big|high|long|many)|at most|less than|greater than|exceed|maximum|must be|between|[<>]",
    re.IGNORECASE,
)
_REQUIRED = {"messages", "prompt", "model"}


def error_message(text: str) -> str:
    """What an error's body says: its message in OpenAI's layout or FastAPI's, else all of it."""
    try:
        body = json.loads(text)
        error = body.get("error") or body.get("detail") or body
        return str(error["message"] if isinstance(error, dict) and "message" in error else error)
    except (ValueError, AttributeError, RecursionError):
        return text


def error_code(text: str) -> int | None:
    """The HTTP status in the body of an error that came with status 200; None where the body is no error."""
    try:
        body = json.loads(text)
        error = body["error"]
        if not error or body.get("choices"):
            return None
        code = error.get("code") if isinstance(error, dict) else None
        return int(code) if str(code).isascii() and re.fullmatch(r"[45]\d\d", str(code)) else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def blamed(text: str, fields: Sequence[str]) -> str | None:
    """The one of `fields` that a refusal is about; None if it names none.

    Where the body says so by a key of its own, that counts; else the field that is named first. Of fields that do
    not go together, it is the earlier one of `fields`.
    """
    pointed = " ".join(_pointed(text))
    for said in (pointed, text):
        found = {name: match.start() for name in fields if (match := _pattern(name).search(said))}
        if found:
            return next(iter(found)) if _TOGETHER.search(text) else min(found, key=lambda name: found[name])
    return None


def is_elsewhere(text: str) -> bool:
    """Whether a refusal points to a field that no request can do without."""
    return bool(_REQUIRED & set(_pointed(text)))


def is_unknown(text: str) -> bool:
    """Whether an error's words are those for a field that is not known or not allowed."""
    return bool(_UNKNOWN.search(text))


def is_value(text: str) -> bool:
    """Whether an error's words are about a number that is too large, not about its field."""
    return bool(_VALUE.search(error_message(text)))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks us to wait: a number or a date; None if it says neither."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, IndexError, OverflowError, OSError):
            return None
    return max(seconds, 0.0) if seconds == seconds else None


def _pattern(name: str) -> re.Pattern[str]:
    spelled = name.replace("_", r"[_\- ]?")
    also = f"|{_ALSO[name]}" if name in _ALSO else ""
    return re.compile(rf"(?<![\w\-])(?:{spelled}{also})(?![\w\-])", re.IGNORECASE | re.ASCII)


def _pointed(text: str) -> Iterator[str]:
    """The names that a JSON error's own keys point to."""
    try:
        yield from _pointers(json.loads(text), within=False)
    except (ValueError, RecursionError):
        return


def _pointers(value: Any, within: bool) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "input":  # FastAPI says the whole request back
                yield from _pointers(item, key in _POINTERS)
    elif isinstance(value, list):
        for item in value:
            yield from _pointers(item, within)
    elif within and isinstance(value, str):
        yield value
