"""What params.yaml says of a run, as the page shows it: section by section, defaults of rows left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from selma.runtime.params import Expert


def rows(**sections: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections of rows, those that have some."""
    return {
        section: {name: asdict(row) for name, row in found.items()}
        for section, found in sections.items()
        if found
    }


def given(expert: Expert) -> dict[str, Any]:
    """What a row of `experts` sets itself."""
    return {key: value for key, value in asdict(expert).items() if value is not None}
