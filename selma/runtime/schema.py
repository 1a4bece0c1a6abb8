"""YAML into frozen dataclasses: params.yaml's and its like's.

selma/ground/schema.py checks plain data; here is what only settings have: YAML, and the names of rows.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import Node, ScalarNode

from selma.ground.errors import UserError, first_line
from selma.ground.files import read_text
from selma.ground.schema import matches, once

# A name becomes a part of file names and a DVC stage name: no slash, space or template in it, room for a second one.
NAME, NAME_WORDS = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}", "a name of letters, digits and _ . + -, at most 100"
Name = Annotated[str, matches(NAME, NAME_WORDS)]
# A row's name is a step of a dotted key, too, for DVC (`params:`) and for `dvc exp run -S`.
ROW, ROW_WORDS = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", "a name of letters, digits and _ -, at most 100"
RowName = Annotated[str, matches(ROW, ROW_WORDS)]
AnyNames = Annotated[tuple[Name, ...], once]
Names = Annotated[tuple[Name, ...], Field(min_length=1), once]

DEEPEST = 50  # mappings and lists inside each other
MOST = 100_000  # values of a file, aliases written out

_TAG = "tag:yaml.org,2002:"
_PLAIN = {f"{_TAG}{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}


def load_yaml(path: Path) -> Any:
    """The plain contents of a YAML 1.2 file (so that 1e-4 is a float); raises UserError if unreadable.

    Equal files share one result: do not modify it.
    """
    return parse_yaml(read_text(path), where=str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The same of a text; `where` opens every error.

    Plain data is text, numbers, true, false, null, lists, and mappings of them; a date is text, as in JSON.
    """
    try:
        return _parse(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise UserError(
            f"{where}{line}: is not valid YAML ({str(problem).split(chr(10))[0][:200]})"
        ) from None
    except RecursionError:
        raise UserError(
            f"{where}: is not valid YAML (more than {DEEPEST} levels inside each other)"
        ) from None
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:  # !!bool x, !!int x, ...
        raise UserError(f"{where}: is not valid YAML ({first_line(error)[:200]})") from None


@cache
def _parse(text: str) -> Any:
    # pure: the same error messages with and without ruamel.yaml.clib.
    yaml = YAML(typ="safe", pure=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReusedAnchorWarning)  # many lines about what YAML allows
        node = yaml.compose(text)
    if node is None:
        return None
    _check_node(node, {})
    return yaml.constructor.construct_document(node)


def _check_node(node: Node, sizes: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """(values, levels) of a node with its aliases written out, before anything is built from it.

    A few lines of aliases of aliases are gigabytes as JSON or in an error message. Raises YAMLError for more than
    MOST values or DEEPEST levels, a node that holds itself, and for what is not plain data.
    """
    if id(node) in sizes:
        if (known := sizes[id(node)]) is None:
            raise _refusal(node, "a value that holds itself")
        return known
    if node.tag == f"{_TAG}timestamp":
        node.tag = f"{_TAG}str"
    if node.tag not in _PLAIN:
        raise _refusal(node, f"{node.tag.removeprefix(_TAG)[:40]} is no text, number, list or mapping")
    if node.tag in (f"{_TAG}int", f"{_TAG}float") and len(node.value) > 300:
        raise _refusal(node, f"a number of {len(node.value)} digits")
    if isinstance(node, ScalarNode) and re.search("[\ud800-\udfff]", node.value):
        raise _refusal(node, "half a character, a lone surrogate")
    size, levels, sizes[id(node)] = 1, 0, None
    for part in () if isinstance(node, ScalarNode) else node.value:
        for inner in part if isinstance(part, tuple) else (part,):
            n, depth = _check_node(inner, sizes)
            size, levels = size + n, max(levels, depth + 1)
        if size > MOST or levels > DEEPEST:
            raise _refusal(node, f"more than {MOST} values or {DEEPEST} levels, with aliases written out")
    sizes[id(node)] = size, levels
    return size, levels


def _refusal(node: Node, problem: str) -> YAMLError:
    return ConstructorError(None, None, problem, node.start_mark)


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
