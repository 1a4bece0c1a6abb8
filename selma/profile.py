"""Overlay a profile on params.yaml, keeping its comments, key order and number formats.

    python -m selma.profile sd2        params.yaml now holds profiles/sd2.yaml's values
    python -m selma.profile shapes     and now, byte for byte, the default's again

A profile names only what it changes, in params.yaml's own structure. Sections (`images`, `expert`, ...) and rows
(`experts`, `merges`, `models`) are overlaid key by key, so a row that you add stays in every profile; `backbones`,
`benchmarks` and `judges` are replaced as a whole. The default profile is applied first, so that switching from one
profile to another leaves nothing of the first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_args

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, ScalarNode

from selma.ground.errors import UserError
from selma.ground.files import write_text
from selma.runtime import command, yamltext
from selma.runtime.checks import warn
from selma.runtime.params import Params, build_params
from selma.runtime.schema import hints, load_yaml, parse_yaml, plain

DEFAULT = "shapes"
ROWS = ("experts", "merges", "models")


@dataclass(frozen=True)
class Value:
    """Where one key's value stands in a YAML text: from `start` to `end`, in `block` style or on one line."""

    start: int
    end: int
    block: bool


def apply(name: str, root: Path) -> None:
    """Overlay root/profiles/<name>.yaml on root/params.yaml; nothing is changed if it raises UserError."""
    files = {path.stem: path for path in sorted((root / "profiles").glob("*.yaml"))}
    if name not in files:
        raise UserError(f"unknown profile {name}; allowed: {', '.join(files) or 'none'}")
    params = root / "params.yaml"
    load_yaml(params)
    text = params.read_text(encoding="utf-8")
    for profile in dict.fromkeys((DEFAULT, name)):
        if profile in files:
            text = overlay(text, files[profile])
    where = f"profiles/{name}.yaml on params.yaml"
    warn(build_params(parse_yaml(text, where), where))
    write_text(params, text)


def overlay(text: str, profile: Path) -> str:
    """`text` with the values of a profile's file in place of its own, each as that file writes it."""
    contents = load_yaml(profile)
    if not isinstance(contents, dict) or contents.get("profile") != profile.stem:
        raise UserError(f"{profile}: must say `profile: {profile.stem}`")
    source = profile.read_text(encoding="utf-8")
    old, new = values(text), values(source)
    for key in new:
        if key not in old:
            raise UserError(
                f"{profile}: key {key} is not in params.yaml; a profile can only change existing keys"
            )
        if old[key].block != new[key].block:
            style = "a block, an entry per line" if old[key].block else "on the key's line"
            raise UserError(f"{profile}: {key} must be written as params.yaml writes it: {style}")
    for key in sorted(new, key=lambda key: old[key].start, reverse=True):  # from the end: offsets stay valid
        text = text[: old[key].start] + source[new[key].start : new[key].end] + text[old[key].end :]
    return text


def values(text: str) -> dict[str, Value]:
    """The values of a params text that a profile can replace, by dotted key."""
    root = YAML().compose(text)
    return dict(_values(root, Params, "", text)) if isinstance(root, MappingNode) else {}


def _values(node: MappingNode, kind: Any, prefix: str, text: str) -> Iterator[tuple[str, Value]]:
    fields = hints(kind) if is_dataclass(kind) else {}
    for key, value in node.value:
        label = key.value if isinstance(key, ScalarNode) else text[key.start_mark.index : key.end_mark.index]
        name, inner = f"{prefix}{label}", plain(fields.get(label))
        if isinstance(value, MappingNode) and is_dataclass(inner):
            yield from _values(value, inner, f"{name}.", text)
            continue
        if isinstance(value, MappingNode) and name in ROWS:
            row_kind = plain(get_args(inner)[1])
            for row, cells in value.value:
                if isinstance(cells, MappingNode):
                    yield from _values(cells, row_kind, f"{name}.{row.value}.", text)
            continue
        block = yamltext.is_block(value)
        end = yamltext.end(value)
        if block:  # with the comment that ends its last line
            end = yamltext.line_end(text, end)
        # A value on one line ends at its own end: the number of spaces before a comment does not change.
        start = key.end_mark.index if block else value.start_mark.index
        yield name, Value(start, end, block)


def main(arguments: list[str]) -> int:
    """Overlay the named profile; exit code 2 with one line if that fails."""
    return command.run(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise UserError("usage: python -m selma.profile NAME")
    apply(arguments[0], Path.cwd())
    print(f"params.yaml now holds profile {arguments[0]}; `dvc params diff` shows what changed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
