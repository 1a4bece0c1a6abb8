"""One YAML text over another, value by value: a profile over params.yaml, whose comments and own rows stay."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Container, Iterator, Mapping
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

ROWS = ("experts", "merges", "models")  # overlaid key by key; a row that is not there yet is added
# A profile's rows are replaced, others stay.
ORIGINS = ("backbones", "benchmarks", "judges", "own.judges", "draws", "picks")


@dataclass(frozen=True)
class Value:
    """Where a key (which ends at `key`) and its value stand in a YAML text; a `block` is written over lines."""

    key: int
    start: int
    end: int
    block: bool


def overlay(
    text: str, profile: Path, theirs: Mapping[str, set[str]], only: Container[str] | None = None
) -> str:
    """`text` with the values of a profile's file in place of its own, each as that file writes it.

    `theirs` are the rows that some profile names, by section: of ORIGINS those that are not among them are added again.
    With `only`, other keys stay as they are.
    """
    source = read_profile(profile)
    old, new = values(text), values(source)
    there = _rows(text)
    added = {
        section: [row for name, row in rows.items() if name not in there[section]]
        for section, rows in whole_rows(source).items()
    }
    whole = tuple(f"{section}.{row[0].value}." for section, rows in added.items() for row in rows)
    for key in new:
        if key not in old and not key.startswith(whole):
            raise UserError(
                f"{profile}: key {key} is not in params.yaml; a profile can only change existing keys, and add whole "
                f"rows to {', '.join(ROWS)}"
            )
    changed = [key for key in new if key in old and (only is None or key in only)]
    kept = [
        (section, row)
        for section in ORIGINS
        if section in changed and isinstance(rows_node := _node(text, section), MappingNode)
        for row in rows_node.value
        if row[0].value not in theirs[section]
    ]
    rows = [(section, *_row_text(text, section, row)) for section, row in kept]
    rows += [(section, *_row_text(source, section, row)) for section in added for row in added[section]]
    for key in sorted(
        changed, key=lambda key: old[key].start, reverse=True
    ):  # from the end: offsets stay valid
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


def read_profile(profile: Path) -> str:
    """The text of a profile's file; raises UserError for one that does not say whose it is."""
    contents = load_yaml(profile)
    if not isinstance(contents, dict) or contents.get("profile") != profile.stem:
        raise UserError(f"{profile}: must say `profile: {profile.stem}`")
    return profile.read_text(encoding="utf-8")


def whole_rows(source: str) -> dict[str, dict[str, tuple[Node, Node]]]:
    """The rows of ROWS, by section and name, that have in a YAML text all that a row needs."""
    found = _rows(source)
    for section, rows in found.items():
        fields = dataclasses.fields(plain(get_args(plain(hints(Params)[section]))[1]))
        needs = {
            field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING
        }
        found[section] = {
            name: row
            for name, row in rows.items()
            if isinstance(row[1], MappingNode) and needs <= {key.value for key, _ in row[1].value}
        }
    return found


def without_rows(text: str, profile: Path, default: Path) -> str:
    """`text` without the rows of ROWS that a profile added: those that it names whole and the default does not."""
    named = _rows(read_profile(default))
    for section, rows in whole_rows(read_profile(profile)).items():
        for name in rows.keys() - named[section].keys():
            text = _without_row(text, section, name)
    return text


def _rows(text: str) -> dict[str, dict[str, tuple[Node, Node]]]:
    """The rows of every section of ROWS that a YAML text has, by section and name."""
    root = YAML().compose(text)
    found: dict[str, dict[str, tuple[Node, Node]]] = {section: {} for section in ROWS}
    for key, section in root.value if isinstance(root, MappingNode) else ():
        if key.value in ROWS and isinstance(section, MappingNode):
            found[key.value] = {row[0].value: row for row in section.value if isinstance(row[0], ScalarNode)}
    return found


def _node(text: str, key: str) -> Node:
    """The value at a dotted key of a YAML text that has it."""
    node = YAML().compose(text)
    for part in key.split("."):
        node = next(value for own, value in node.value if own.value == part)
    return node


def _row_text(text: str, section: str, row: tuple[Node, Node]) -> tuple[str, str]:
    """A section's row as it is written, on lines of its own with the comment at its end, and as it can be written in
    braces."""
    key, value = row
    bare = text[key.start_mark.index : yamltext.end(value)]
    if not yamltext.is_block(_node(text, section)):
        return bare, bare
    written = text[key.start_mark.index : yamltext.line_end(text, yamltext.end(value))]
    if not yamltext.is_block(value):
        return written, bare
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


def _without_row(text: str, section: str, name: str) -> str:
    """`text` without a row of a section, if that has it, and without the comment at its end."""
    node = _node(text, section)
    names = [key.value for key, _ in node.value] if isinstance(node, MappingNode) else []
    if name not in names:
        return text
    place = names.index(name)
    key, value = node.value[place]
    if yamltext.is_block(node):
        start = text.rfind("\n", 0, key.start_mark.index)
        return text[:start] + text[yamltext.line_end(text, yamltext.end(value)) :]
    if place:  # with the comma before it, or, of the first one, behind it
        return text[: node.value[place - 1][1].end_mark.index] + text[value.end_mark.index :]
    end = node.value[1][0].start_mark.index if len(names) > 1 else value.end_mark.index
    return text[: key.start_mark.index] + text[end:]


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
