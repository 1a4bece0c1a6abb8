"""What an expert's training left: its checkpoints, by step."""

from __future__ import annotations

from pathlib import Path

from selma.ground.errors import UserError


def checkpoints(folder: Path) -> dict[int, Path]:
    """Checkpoint folders (step-*) by step, in the order of steps; raises UserError if there are none."""
    steps = {path: path.name.removeprefix("step-") for path in folder.glob("step-*")}
    found = {int(step): path for path, step in steps.items() if step.isdecimal()}
    if not found:
        raise UserError(f"{folder} holds no checkpoints (step-*); the expert stage writes them")
    return dict(sorted(found.items()))
