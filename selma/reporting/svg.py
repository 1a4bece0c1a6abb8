"""Figures as SVG files whose bytes depend on their numbers alone."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from selma.ground.files import atomic

INK, FAINT = "#1f2933", "#9aa5b1"


def save(path: Path, figure: Any) -> None:
    """Write an SVG: without a date and with fixed ids, so that equal numbers give equal bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "selma", "svg.fonttype": "path"}):
        buffer = BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="white")
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
