"""A run beside the one that the repository's last commit holds: on another processor trained weights differ."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import read_json
from selma.reporting.metrics import EVAL
from selma.reporting.table import gain_text, percent, verdict

STUDY = Path("metrics/study/seeds.json")


def committed() -> dict[str, Any] | None:
    """metrics/eval.json of the last commit; None without a repository, a commit or that file."""
    shown = subprocess.run(["git", "show", f"HEAD:{EVAL}"], capture_output=True, encoding="utf-8")
    try:
        found = json.loads(shown.stdout) if shown.returncode == 0 else None
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"models", "gains"} <= found.keys() else None


def beside(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Both runs in one table, what they have in common; where they are the same, that in a line."""
    from tabulate import tabulate

    if ours == theirs:
        return "These are the committed numbers."
    models = [
        (name, percent(theirs["models"][name]["mean"]), percent(found["mean"]))
        for name, found in ours["models"].items()
        if name in theirs["models"]
    ]
    gains = [
        (f"{name}, points", gain_text(theirs["gains"][name]), gain_text(found))
        for name, found in ours["gains"].items()
        if name in theirs["gains"]
    ]
    if not models:
        return "The committed run has no model in common with this one."
    table = tabulate(models + gains, ["", "committed", "yours"], tablefmt="simple", disable_numparse=True)
    return "\n".join([table, *_notes(ours, theirs)])


def _notes(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    keys = ("benchmark", "judge", "drawing", "n_prompts", "images_per_prompt")
    other = [key for key in keys if ours.get(key) != theirs.get(key)]
    if other:
        return [f"The two are not examined alike ({', '.join(other)}), so their numbers are no comparison."]
    flipped = [
        name
        for name, gain in ours["gains"].items()
        if name in theirs["gains"] and verdict(gain) != verdict(theirs["gains"][name])
    ]
    notes = ["With equal settings they differ by the processor: what is trained is rounded otherwise there."]
    if flipped:
        notes.append(
            f"The verdict on {' and '.join(flipped)} flips, as it may: one run does not settle a small difference."
        )
    return notes


def spread(ours: Mapping[str, Any], study: Path = STUDY) -> str | None:
    """What the pooled study says of every gain, and how far its single runs lie apart: a line each.

    None without a study of the same benchmark, judge and drawing. Raises UserError for a file that is no study.
    """
    if not study.is_file():
        return None
    found = read_json(study)
    try:
        runs = list(found["runs"].values())
        if any(run[key] != ours[key] for run in runs for key in ("benchmark", "judge", "drawing")):
            return None
        lines = [f"Over {len(runs)} training seeds ({study}):"]
        for name, pooled in found["pooled"]["gains"].items():
            singles = [100 * run["gains"][name]["mean"] for run in runs]
            lines.append(
                f"  {name} {gain_text(pooled, places=1)} points, single runs {min(singles):+.1f} to {max(singles):+.1f}"
            )
        return "\n".join(lines) if runs and len(lines) > 1 else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{study}: not a pooled study ({error!r}); `make study` writes it") from None
