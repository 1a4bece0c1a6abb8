"""One YAML text over another, value by value: a profile over params.yaml, whose comments and own rows stay."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_args

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from selma.ground.errors import UserError
from selma.ground.schema import hints, plain
from selma.runtime import yamltext
from selma.runtime.params import Params
from selma.runtime.schema import load_yaml

ROWS = ("experts", "merges", "models")  # overlaid key by key
ORIGINS = ("backbones", "benchmarks", "judges", "own.judges")  # a profile's rows are replaced, others stay


@dataclass(frozen=True)
class Value:
    """Where a key (which ends at `key`) and its value stand in a YAML text; a `block` is written over lines."""

    key: int
    start: int
    end: int
    block: bool


def overlay(text: str, profile: Path, theirs: Mapping[str, set[str]]) -> str:
    """`text` with the values of a profile's file in place of its own, each as that file writes it.

    Of ORIGINS the rows that are not in `theirs`, the profiles' own, are added again.
    """
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
    kept = [
        (section, row)
        for section in ORIGINS
        if section in new and isinstance(rows_node := _node(text, section), MappingNode)
        for row in rows_node.value
        if row[0].value not in theirs[section]
    ]
    rows = [(section, *_row_text(text, row)) for section, row in kept]
    for key in sorted(new, key=lambda key: old[key].start, reverse=True):  # from the end: offsets stay valid
        mine, its = old[key], new[key]
        if mine.block == its.block:
            space = (
                " " if text[mine.start - 1] == ":" else ""
            )  # an empty value, which is null, ends at its colon
            text = text[: mine.start] + space + source[its.start : its.end] + text[mine.end :]
        else:  # in braces here, over lines there: all that follows the key
            text = text[: mine.key] + source[its.key : its.end] + text[mine.end :]
    for section, written, in_braces in rows:
        text = _with_row(text, section, written, in_braces)
    return text


def _node(text: str, key: str) -> Node:
    """The value at a dotted key of a YAML text that has it."""
    node = YAML().compose(text)
    for part in key.split("."):
        node = next(value for own, value in node.value if own.value == part)
    return node


def _row_text(text: str, row: tuple[Node, Node]) -> tuple[str, str]:
    """A row as it is written, with the comment at its end, and as it can be written in braces."""
    key, value = row
    written = text[key.start_mark.index : yamltext.line_end(text, yamltext.end(value))]
    if not yamltext.is_block(value):
        return written, text[key.start_mark.index : value.end_mark.index]
    buffer = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width = True, 10**6
    yaml.dump(
        {key.value: YAML(typ="safe", pure=True).load(f"{' ' * key.start_mark.column}{written}")[key.value]},
        buffer,
    )
    return written, buffer.getvalue().strip()[1:-1]


def _with_row(text: str, section: str, written: str, in_braces: str) -> str:
    """`text` with one more row at the end of a section."""
    node = _node(text, section)
    if yamltext.is_block(node):
        place = yamltext.line_end(text, yamltext.end(node))
        return f"{text[:place]}\n{' ' * node.value[0][0].start_mark.column}{written}{text[place:]}"
    place = node.end_mark.index - 1
    return f"{text[:place]}{', ' if node.value else ''}{in_braces}{text[place:]}"


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
        yield name, Value(key.end_mark.index, start, end, block)
