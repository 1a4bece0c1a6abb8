"""YAML into frozen dataclasses, strictly, by pydantic: the machinery behind params.py.

A section is a class under `@section`; a field's annotation says what it takes. Whatever does not fit is one line
that names the key, its value and what is allowed.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from selma.ground.errors import UserError

T = TypeVar("T")

# Strict: "16" and 16.0 are not integers, true is not a number, and an unknown key is an error.
section = dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))


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


def _once(values: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"it must not name {', '.join(twice)} twice")
    return values


Count = Annotated[int, Field(ge=1)]  # how many of something: 1 or more
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
once = AfterValidator(_once)  # a list that names nothing twice
# A name becomes a file name and a DVC stage name, so no slash, space or template in it.
NAME, NAME_WORDS = r"[A-Za-z0-9][A-Za-z0-9_.+-]*", "a name of letters, digits and _ . + -"
Name = Annotated[str, matches(NAME, NAME_WORDS)]
# A row's name is a step of a dotted key, too, for DVC (`params:`) and for `dvc exp run -S`.
ROW, ROW_WORDS = r"[A-Za-z0-9][A-Za-z0-9_-]*", "a name of letters, digits and _ -"
RowName = Annotated[str, matches(ROW, ROW_WORDS)]
AnyNames = Annotated[tuple[Name, ...], once]
Names = Annotated[tuple[Name, ...], Field(min_length=1), once]


def load_yaml(path: Path) -> Any:
    """The plain contents of a YAML 1.2 file (so that 1e-4 is a float); raises UserError if unreadable.

    Equal files share one result: do not modify it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None
    return parse_yaml(text, where=str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The same of a text; `where` opens every error."""
    try:
        return _parse(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).split("\n")[0]
        raise UserError(f"{where}{line}: is not valid YAML ({problem})") from None
    except (ValueError, RecursionError) as error:  # e.g. an impossible date
        raise UserError(f"{where}: is not valid YAML ({str(error).splitlines()[0]})") from None


@cache
def _parse(text: str) -> Any:
    # pure: the same error messages with and without ruamel.yaml.clib.
    return YAML(typ="safe", pure=True).load(text)


def overridden(value: Any, settings: Mapping[str, Any]) -> Any:
    """A copy of plain YAML data with the values of `settings` at their dotted keys; missing mappings are created."""
    changed = copy.deepcopy(value)
    for key, item in settings.items():
        *path, last = key.split(".")
        inner = changed
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise UserError(f"{key}: {part} is not a mapping, so nothing in it can be set")
        inner[last] = item
    return changed


def build(cls: type[T], value: Any, where: str) -> T:
    """An instance of the section `cls` from plain YAML data; raises UserError, naming `where` (a file), otherwise."""
    try:
        # As JSON, because strict pydantic takes a list for a tuple, and a mapping for a section, only there.
        return _adapter(cls).validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        # An unknown key explains a missing one in the same section.
        first = min(error.errors(), key=lambda problem: problem["type"] != "unexpected_keyword_argument")
        raise UserError(f"{where}: {_line(cls, first)}") from None
    except (ValueError, RecursionError) as error:  # a value that contains itself
        raise UserError(f"{where}: cannot be read ({str(error).splitlines()[0]})") from None


@cache
def _adapter(cls: type) -> TypeAdapter:
    return TypeAdapter(cls)


def _line(cls: type, problem: Mapping[str, Any]) -> str:
    """What pydantic found wrong, as one line."""
    loc, value = list(problem["loc"]), problem["input"]
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown key {_dotted(loc)}; {_suggest(str(loc[-1]), fields_at(cls, loc[:-1]))}"
    if problem["type"] == "missing":
        needs = ", ".join(fields_at(cls, loc[:-1])) or "one more"  # a list of fixed length has no names
        return f"missing key {_dotted(loc)}; {_dotted(loc[:-1])} needs {needs}"
    if problem["type"] == "dataclass_type":
        wanted = f"it must be a mapping of {', '.join(fields_at(cls, loc))}"
    else:
        wanted = re.sub(r"^\w+ should ", "it must ", problem["msg"].removeprefix("Value error, "))
        for theirs, ours in (("valid array", "list"), ("an object", "a mapping"), (" after validation", "")):
            wanted = wanted.replace(theirs, ours)
    return f"{_dotted(loc)} is {_show(value)}; {wanted}"


def fields_at(cls: type, loc: Sequence[str | int]) -> list[str]:
    """The keys of the section at a place in `cls`."""
    kind = kind_at(cls, loc)
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def kind_at(cls: type, loc: Sequence[str | int]) -> Any:
    """The type at a place: a section's field, a mapping's or list's item; None and rules left out."""
    kind: Any = cls
    for part in loc:
        if dataclasses.is_dataclass(kind):
            kind = plain(hints(kind).get(part))
        else:  # dict[Name, X], tuple[X, ...]
            kind = plain(get_args(kind)[0 if isinstance(part, int) else -1]) if get_args(kind) else None
    return kind


def plain(kind: Any) -> Any:
    """An annotation without its rules and without `| None`."""
    while hasattr(kind, "__metadata__") or type(None) in get_args(kind):
        kind = get_args(kind)[0]
    return kind


@cache
def hints(cls: type) -> dict[str, Any]:
    """The annotations of a section, by field."""
    return get_type_hints(cls, include_extras=True)


def _dotted(loc: Sequence[str | int]) -> str:
    if loc and loc[-1] == "[key]":
        return f"a key of {_dotted(loc[:-2])}"
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".") or "the file"


def _suggest(name: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"did you mean {close[0]}?" if close else f"it must be one of: {', '.join(allowed)}"


def _show(value: Any) -> str:
    """`value` on one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
