"""The doors at which params.yaml chooses: a choice is a file, selma/variants/<door>/<name>.py.

The name in params.yaml is the file's name, the allowed names are the folder's listing, and a file is imported only
where it is chosen. To add a choice, add a file; nothing else names it.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Collection, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from selma.ground.errors import UserError
from selma.ground.schema import build, one_of, section

FOLDER = Path(__file__).parents[1] / "variants"


@cache
def names(door: str, **states: bool) -> tuple[str, ...]:
    """What may be chosen at a door, sorted; with `states` only files whose constants are so (False where they state
    none): names("objectives", MIXES=True)."""
    found = sorted(path.stem for path in (FOLDER / door).glob("[!_]*.py"))
    return tuple(name for name in found if not states or _states(door, name, states))


def _states(door: str, name: str, states: Mapping[str, bool]) -> bool:
    try:
        own = constants(door, name)
    except SyntaxError:  # a file that is being written must break nothing before it is chosen
        own = {}
    return all(own.get(key, False) == value for key, value in states.items())


def load(door: str, name: str, key: str) -> ModuleType:
    """The module of a choice; raises UserError, naming the params key, for one that is not in the folder."""
    if name not in names(door):
        raise UserError(f"{key} is {name!r}; it must be one of: {', '.join(names(door))}")
    return import_module(f"selma.variants.{door}.{name}")


def path(door: str, name: str) -> Path:
    """The file of a choice."""
    return FOLDER / door / f"{name}.py"


@cache
def constants(door: str, name: str) -> dict[str, Any]:
    """The literal constants (NEEDS, FILES, ...) that a choice's file states, read without importing it.

    Checking params.yaml must not cost an import of torch, which most of the files need to run.
    """
    tree = ast.parse(path(door, name).read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            continue  # computed, so params.yaml is not checked against it
        target = node.targets[0]
        if isinstance(target, ast.Name):
            found[target.id] = value
        elif isinstance(target, ast.Tuple):
            found |= dict(zip((name.id for name in target.elts), value, strict=True))
    return found


def options(
    door: str, name: str, given: Mapping[str, Any], key: str, names: Collection[str] | None = None
) -> dict[str, Any]:
    """The settings of a choice, checked, those that are not given by their defaults.

    A choice's file states them in OPTIONS, e.g. {"density": {"default": 0.5, "gt": 0, "le": 1}}: the default's type
    is the setting's; gt, ge, lt and le bound a number, `one_of` lists what a text may be, and `weights` (default None)
    is a number for each name: where `names` are given, for each of them and no other. Raises UserError, opened by
    `key`, for an unknown setting and an impossible value.
    """
    if given and not constants(door, name).get("OPTIONS"):
        raise UserError(f"{key}: {name} has no settings; leave them out")
    found = build(_schema(door, name), dict(given), where=key, whole="it")
    for setting, rules in constants(door, name).get("OPTIONS", {}).items():
        if rules.get("weights") and names is not None:
            _check_names(f"{key}: {setting}", getattr(found, setting), names)
    return {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}


def _check_names(key: str, weights: Mapping[str, float] | None, names: Collection[str]) -> None:
    """Raise UserError unless there are no weights at all, or one for each name."""
    wanted = f"it must hold a number for each of: {', '.join(names)}"
    for name in weights or ():
        if name not in names:
            raise UserError(f"{key} names {name!r}; {wanted}")
    if weights is not None and (missing := [name for name in names if name not in weights]):
        raise UserError(f"{key} lacks {', '.join(missing)}; {wanted}")


@cache
def _schema(door: str, name: str) -> type:
    """OPTIONS of a choice's file as a section."""
    fields = []
    for setting, rules in constants(door, name).get("OPTIONS", {}).items():
        rules = dict(rules)
        default, allowed = rules.pop("default"), rules.pop("one_of", None)
        kind: Any = dict[str, float] if rules.pop("weights", False) else type(default)
        checks = [*([one_of(allowed)] if allowed else []), *([Field(**rules)] if rules else [])]
        kind = Annotated[kind, *checks] if checks else kind
        fields.append((setting, kind if default is not None else kind | None, default))
    return section(dataclasses.make_dataclass("Options", fields, frozen=True))
