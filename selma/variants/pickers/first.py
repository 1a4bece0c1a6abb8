"""The first image of every prompt, whatever it shows: SELMA's own (arXiv 2403.06952, section 3.2), no selection."""

from __future__ import annotations

from collections.abc import Sequence

from selma.picking.shots import KEPT, Shot


def verdicts(shots: Sequence[Shot]) -> list[str]:
    """What is said of each of a prompt's images."""
    return [KEPT if i == 0 else "not the first" for i in range(len(shots))]
