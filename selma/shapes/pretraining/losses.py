"""The losses of a pretraining run: kept on disk, so that a resumed run's are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from selma.ground.files import read_jsonl, write_csv, write_jsonl

FIELDS = ["part", "step", "loss"]


class Losses:
    """Losses by part and step."""

    def __init__(self, file: Path, track: Callable[[str, float, int], None]) -> None:
        """`file` keeps them (JSON lines); `track` is told of each as (name, loss, step)."""
        self._file, self._track = file, track
        kept = read_jsonl(file) if file.exists() else []
        # A resumed run logs some steps again, with the same values: the key keeps one of each.
        self._rows = {(row["part"], row["step"]): row for row in kept}

    def log(self, part: str, step: int, loss: float) -> None:
        """Note a part's mean loss up to a step."""
        self._rows[part, step] = {"part": part, "step": step, "loss": round(loss, 5)}
        write_jsonl(self._file, self._rows.values())
        self._track(f"loss.{part}", loss, step)

    def write(self, path: Path) -> None:
        """Write all of them as CSV: part, step, loss."""
        write_csv(path, list(self._rows.values()), FIELDS)
