"""The doors at which params.yaml chooses: a choice is a file, selma/variants/<door>/<name>.py.

The name in params.yaml is the file's name, the allowed names are the folder's listing, and a file is imported only
where it is chosen. To add a choice, add a file; nothing else names it.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from selma.ground.errors import UserError

FOLDER = Path(__file__).parents[1] / "variants"


@cache
def names(door: str) -> tuple[str, ...]:
    """What may be chosen at a door, sorted."""
    return tuple(sorted(path.stem for path in (FOLDER / door).glob("[!_]*.py")))


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
