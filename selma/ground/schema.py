"""Plain data into what a schema says, strictly, by pydantic: the machinery behind params.py and every row that is read.

A schema is a frozen dataclass under `@section` (settings: an unknown key is an error), or a `TypedDict` under
`@record` (rows and metrics: further keys are passed over). A field's annotation says what it takes. Whatever does not
fit is one line that names the key, its value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Annotated, Any, NotRequired, TypeVar, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic.dataclasses import dataclass

from selma.ground.errors import UserError, first_line

T = TypeVar("T")

# Strict: "16" and 16.0 are not integers, true is not a number.
section = dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
record = with_config(ConfigDict(strict=True, extra="ignore", allow_inf_nan=False))


# What fields take ------------------------------------------------------------------------------


def matches(pattern: str, wanted: str) -> AfterValidator:
    """Text that matches a regular expression; `wanted` says in words what that is."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"it must be {wanted}")
        return value

    return AfterValidator(check)


def one_of(allowed: Sequence[str]) -> AfterValidator:
    """One of the given values."""

    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"it must be one of: {', '.join(allowed)}")
        return value

    return AfterValidator(check)


def _once(values: Sequence[str]) -> Sequence[str]:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"it must not name {', '.join(map(_cut, twice))} twice")
    return values


def _says_something(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise ValueError("it must be a non-empty string")
    return value


def _stays_inside(value: str) -> str:
    parts = value.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts) or not value.isprintable():
        raise ValueError("it must be a path inside its folder, of names that are not `..`")
    if "\\" in value or len(value) > 1000:
        raise ValueError("it must be a path inside its folder, with `/` between names")
    return value


once = AfterValidator(_once)  # a list that names nothing twice
Count = Annotated[int, Field(ge=1, le=10**7)]  # how many of something; more fit into no memory, or never end
Index = Annotated[int, Field(ge=0, lt=2**31)]  # a number from 0
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, AfterValidator(_says_something)]
Texts = Annotated[list[Text], once]
# An id names image files, so it is never a path; 160 characters leave room for what is appended.
Id = Annotated[
    str,
    matches(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,159}",
        "letters, digits, '.', '_' or '-', at most 160: it names image files",
    ),
]
FileName = Annotated[str, AfterValidator(_stays_inside)]  # relative to the folder of the file that names it


# Checking --------------------------------------------------------------------------------------


def build(cls: type[T], value: Any, where: str, whole: str = "the file") -> T:
    """An instance of the section `cls` from plain data; raises UserError, opened by `where`, otherwise.

    `where` is a file, perhaps with a line; `whole` is what an error calls the value itself.
    """
    try:
        # As JSON, because strict pydantic takes a list for a tuple, and a mapping for a section, only there.
        return _adapter(cls).validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        raise UserError(f"{where}: {_line(cls, error, whole)}") from None
    except (
        TypeError,
        ValueError,
        RecursionError,
    ) as error:  # a value that contains itself, a key that is a list
        raise UserError(f"{where}: cannot be read ({first_line(error)})") from None


def check(schema: Any, value: Any, where: str, whole: str = "the file") -> Any:
    """`value` as it is, if it fits a record; raises UserError, opened by `where`, otherwise (see `build`)."""
    try:
        _adapter(schema).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{where}: {_line(schema, error, whole)}") from None
    return value


@cache
def _adapter(cls: Any) -> TypeAdapter:
    return TypeAdapter(cls)


def _line(cls: Any, error: ValidationError, whole: str) -> str:
    """What pydantic found wrong first, as one line."""
    # An unknown key explains a missing one in the same section.
    problem = min(error.errors(), key=lambda found: found["type"] != "unexpected_keyword_argument")
    loc, value = list(problem["loc"]), problem["input"]
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown key {_dotted(loc, whole)}; {_suggest(str(loc[-1]), fields_at(cls, loc[:-1]))}"
    if problem["type"] == "missing":
        needs = ", ".join(fields_at(cls, loc[:-1])) or "one more"  # a list of fixed length has no names
        return f"missing key {_dotted(loc, whole)}; {_dotted(loc[:-1], whole)} needs {needs}"
    if problem["type"] in ("dataclass_type", "dict_type") and (fields := fields_at(cls, loc)):
        wanted = f"it must be a mapping of {', '.join(fields)}"
    else:
        wanted = re.sub(r"^\w+ should ", "it must ", problem["msg"].removeprefix("Value error, "))
        for theirs, ours in (
            ("valid array", "list"),
            ("a valid dictionary", "a mapping"),
            ("an object", "a mapping"),
            (" after validation", ""),
        ):
            wanted = wanted.replace(theirs, ours)
    return f"{_dotted(loc, whole)} is {_show(value)}; {wanted}"


def fields_at(cls: type, loc: Sequence[str | int]) -> list[str]:
    """The keys of the section, or those that the record needs, at a place in `cls`."""
    kind = kind_at(cls, loc)
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    if not hasattr(kind, "__required_keys__"):
        return []
    return [name for name, inner in hints(kind).items() if get_origin(inner) is not NotRequired]


def kind_at(cls: type, loc: Sequence[str | int]) -> Any:
    """The type at a place: a section's field, a mapping's or list's item; None and rules left out."""
    kind: Any = cls
    for part in loc:
        if dataclasses.is_dataclass(kind) or hasattr(kind, "__required_keys__"):
            kind = plain(hints(kind).get(part))
        else:  # dict[Name, X], tuple[X, ...]
            kind = plain(get_args(kind)[0 if isinstance(part, int) else -1]) if get_args(kind) else None
    return kind


def plain(kind: Any) -> Any:
    """An annotation without its rules, `NotRequired` and `| None`."""
    while hasattr(kind, "__metadata__") or type(None) in get_args(kind) or get_origin(kind) is NotRequired:
        kind = get_args(kind)[0]
    return kind


@cache
def hints(cls: type) -> dict[str, Any]:
    """The annotations of a section or record, by field."""
    return get_type_hints(cls, include_extras=True)


def _dotted(loc: Sequence[str | int], whole: str) -> str:
    if loc and loc[-1] == "[key]":
        return f"a key of {_dotted(loc[:-2], whole)}"
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return _cut(text.removeprefix(".")) or whole


def _suggest(name: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:80], allowed, n=1, cutoff=0.75)  # a slip, not another word
    return f"did you mean {close[0]}?" if close else f"it must be one of: {', '.join(allowed)}"


def _show(value: Any) -> str:
    """`value` on one short line."""
    return _cut(" ".join(repr(value).split()))


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
