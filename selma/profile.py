"""Overlay a profile on params.yaml, keeping its comments, its order and its way of writing numbers.

    python -m selma.profile sd2        params.yaml now holds profiles/sd2.yaml's values
    python -m selma.profile shapes     and now, byte for byte, the default's again

A profile names only what it changes, in params.yaml's own structure. Sections (`images`, `expert`, ...) are
overlaid key by key; mappings by name (`experts`, `models`, `benchmarks`) are replaced as a whole. The
default profile is laid beneath, so that going from one profile to another leaves nothing of the first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node

from selma.ground.errors import UserError
from selma.ground.files import atomic
from selma.runtime.params import Params, load_params
from selma.runtime.schema import load_yaml

DEFAULT = "shapes"


@dataclass(frozen=True)
class Value:
    """Where one key's value stands in a YAML text: from `start` to `end`, in `block` style or on one line."""

    start: int
    end: int
    block: bool


def apply(name: str, root: Path) -> None:
    """Overlay root/profiles/<name>.yaml on root/params.yaml; a UserError changes nothing."""
    files = {path.stem: path for path in sorted((root / "profiles").glob("*.yaml"))}
    if name not in files:
        raise UserError(f"no profile {name}; there are: {', '.join(files) or 'none'}")
    params = root / "params.yaml"
    load_yaml(params)
    text = params.read_text(encoding="utf-8")
    for profile in dict.fromkeys((DEFAULT, name)):
        if profile in files:
            text = overlay(text, files[profile])
    with atomic(params) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        try:
            load_params(temporary)
        except UserError as error:
            problem = str(error).removeprefix(f"{temporary}: ")
            raise UserError(f"profiles/{name}.yaml on params.yaml: {problem}") from None


def overlay(text: str, profile: Path) -> str:
    """`text` with the values of a profile's file in place of its own, each as that file writes it."""
    contents = load_yaml(profile)
    if not isinstance(contents, dict) or contents.get("profile") != profile.stem:
        raise UserError(f"{profile}: must say `profile: {profile.stem}`")
    source = profile.read_text(encoding="utf-8")
    old, new = values(text), values(source)
    for key in new:
        if key not in old:
            raise UserError(f"{profile}: no key {key} in params.yaml; a profile changes what is there")
        if old[key].block != new[key].block:
            style = "a block, an entry per line" if old[key].block else "on the key's line"
            raise UserError(f"{profile}: {key} must be written as params.yaml writes it: {style}")
    for key in sorted(new, key=lambda key: old[key].start, reverse=True):  # from the end: offsets stay true
        text = text[: old[key].start] + source[new[key].start : new[key].end] + text[old[key].end :]
    return text


def values(text: str) -> dict[str, Value]:
    """The values of a params text that a profile can replace, by dotted key."""
    root = YAML().compose(text)
    return dict(_values(root, Params, "", text)) if isinstance(root, MappingNode) else {}


def _values(node: MappingNode, kind: Any, prefix: str, text: str) -> Iterator[tuple[str, Value]]:
    hints = get_type_hints(kind) if is_dataclass(kind) else {}
    for key, value in node.value:
        name, inner = f"{prefix}{key.value}", hints.get(key.value)
        if is_dataclass(inner) and isinstance(value, MappingNode):
            yield from _values(value, inner, f"{name}.", text)
            continue
        end = _end(value)
        block = getattr(value, "flow_style", True) is False
        if block:  # with the comment that ends its last line
            newline = text.find("\n", end)
            end = len(text) if newline < 0 else newline
        # A value on one line ends where it ends: the spaces before a comment stay as many as they were.
        start = key.end_mark.index if block else value.start_mark.index
        yield name, Value(start, end, block)


def _end(node: Node) -> int:
    """Where the text of a node ends; a block's own mark lies behind the comments that follow it."""
    if getattr(node, "flow_style", True) is False and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return node.end_mark.index


def main(arguments: list[str]) -> int:
    """Overlay the profile that is named; exit code 2 with one line when that cannot be."""
    try:
        if len(arguments) != 1:
            raise UserError("usage: python -m selma.profile NAME")
        apply(arguments[0], Path.cwd())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"params.yaml holds profile {arguments[0]} now; `dvc params diff` shows what changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
