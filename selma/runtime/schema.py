"""YAML into frozen dataclasses, strictly: the machinery behind params.py.

A field's annotation says what it takes: `int`, `float`, `str`, `bool`, `X | None`, `tuple[X, ...]`,
`dict[str, X]`, another dataclass, or `Annotated[X, rule, ...]` with the rules below.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from selma.ground.errors import UserError

T = TypeVar("T")
KINDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


@dataclass(frozen=True)
class Range:
    """A number from `low` (or above it) to `high`."""

    low: float
    high: float = math.inf
    open_low: bool = False

    def __call__(self, value: float) -> str | None:
        inside = (value > self.low if self.open_low else value >= self.low) and value <= self.high
        if inside:
            return None
        if self.high < math.inf:
            return f"it must lie from {self.low} to {self.high}"
        return f"it must be above {self.low}" if self.open_low else f"it must be at least {self.low}"


class OneOf:
    """One of the given values."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed

    def __call__(self, value: str) -> str | None:
        return None if value in self.allowed else f"it must be one of: {', '.join(self.allowed)}"


class Unique:
    """A list that names nothing twice, and at least one unless it may be `empty`."""

    def __init__(self, *, empty: bool = False) -> None:
        self.empty = empty

    def __call__(self, values: tuple[str, ...]) -> str | None:
        if not values and not self.empty:
            return "it must name at least one"
        twice = sorted({value for value in values if values.count(value) > 1})
        return f"it must not name {', '.join(twice)} twice" if twice else None


class MayBeEmpty:
    """A mapping that may have no entries; any other needs one."""

    def __call__(self, value: dict) -> str | None:
        return None


class Slug:
    """A name that becomes a file name and a DVC stage name, so no slash, space or template in it."""

    def __call__(self, value: str) -> str | None:
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", value):
            return None
        return "it must be a name of letters, digits and _ . + -"


class Matches:
    """Text of the form of a regular expression; `wanted` says in words what that is."""

    def __init__(self, pattern: str, wanted: str) -> None:
        self.pattern, self.wanted = pattern, wanted

    def __call__(self, value: str) -> str | None:
        return None if re.fullmatch(self.pattern, value) else f"it must be {self.wanted}"


Name = Annotated[str, Slug()]


def load_yaml(path: Path) -> Any:
    """The plain contents of a YAML 1.2 file (so that 1e-4 is a float); unreadable or broken -> UserError.

    Equal files share one result: do not change it.
    """
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).split("\n")[0]
        raise UserError(f"{path}{line}: is not valid YAML ({problem})") from None
    except (ValueError, RecursionError) as error:  # e.g. an impossible date
        raise UserError(f"{path}: is not valid YAML ({str(error).splitlines()[0]})") from None


@cache
def _parse(text: str) -> Any:
    # pure: the same words about what is wrong, with and without ruamel.yaml.clib.
    return YAML(typ="safe", pure=True).load(text)


def build(cls: type[T], value: Any, where: str) -> T:
    """An instance of the dataclass `cls` from plain YAML data; `where` (a file) opens every error."""
    try:
        return _build(cls, value, "")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _build(kind: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _fields(kind, value, key)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if value == {} and any(isinstance(rule, MayBeEmpty) for rule in args[1:]):
            return {}
        built = _build(args[0], value, key)
        for rule in args[1:]:
            if problem := rule(built):
                raise UserError(f"{key} is {_show(value)}; {problem}")
        return built
    if origin in (Union, types.UnionType):  # X | None
        return None if value is None else _build(args[0], value, key)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(key, value, "a list")
        return tuple(_build(args[0], item, f"{key}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict) or not value:
            raise _wrong(key, value, "a mapping with at least one entry")
        return {
            _build(args[0], name, f"a key of {key}"): _build(args[1], item, f"{key}.{name}")
            for name, item in value.items()
        }
    return _scalar(kind, value, key)


def _fields(cls: Any, value: Any, key: str) -> Any:
    hints = _hints(cls)
    if not isinstance(value, dict):
        raise _wrong(key or "the file", value, f"a mapping of {', '.join(hints)}")
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in hints:
            raise UserError(f"unknown key {prefix}{_show(name, quote=False)}; {_suggest(str(name), hints)}")
    optional = {field.name for field in dataclasses.fields(cls) if field.default is not dataclasses.MISSING}
    for name in hints:
        if name not in value and name not in optional:
            raise UserError(f"missing key {prefix}{name}; {key or 'the file'} needs {', '.join(hints)}")
    return cls(**{name: _build(hints[name], item, f"{prefix}{name}") for name, item in value.items()})


def _scalar(kind: type, value: Any, key: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    # bool is an int in Python, never in params.yaml
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise _wrong(key, value, KINDS[kind])
    return value


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _wrong(key: str, value: Any, wanted: str) -> UserError:
    return UserError(f"{key} is {_show(value)}; it must be {wanted}")


def _suggest(name: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"did you mean {close[0]}?" if close else f"it must be one of: {', '.join(allowed)}"


def _show(value: Any, *, quote: bool = True) -> str:
    """`value` on one short line."""
    text = repr(value) if quote else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
