"""Places in the text of a YAML file, for edits that keep its comments, key order and number formats."""

from __future__ import annotations

from ruamel.yaml.nodes import Node


def is_block(node: Node) -> bool:
    """Whether a mapping or list is written over lines, not in braces; a scalar is not."""
    return getattr(node, "flow_style", True) is False


def end(node: Node) -> int:
    """Where the text of a node ends; a block's own mark is after the comments that follow it."""
    if is_block(node) and node.value:
        last = node.value[-1]
        return end(last[1] if isinstance(last, tuple) else last)
    return node.end_mark.index


def line_end(text: str, place: int) -> int:
    """Where the line that holds a place ends, with the comment at its end."""
    newline = text.find("\n", place)
    return len(text) if newline < 0 else newline
