"""What a run that was made by `dvc exp run` left: its outs, from DVC's cache, and its metrics, from git."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import folder_digest, read_json, sha256_file, write_json
from selma.runtime import timing
from selma.runtime.dvcfile import load_stages
from selma.runtime.experiment import output


@dataclass(frozen=True)
class Source:
    """One run: its git reference, and the folder that its outs are copied to as they are asked for."""

    ref: str
    folder: Path

    def out(self, path: str) -> Path:
        """The run's out of this path (models/experts: every expert), copied from DVC's cache once.

        Raises UserError for one that the run did not make or the cache does not hold.
        """
        place = self.folder / path
        if not place.exists():
            incoming = self.folder / ".incoming"
            shutil.rmtree(incoming, ignore_errors=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            words = ["dvc", "get", ".", path, "--rev", self.ref, "--out", str(incoming)]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                lines = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
                said = (lines or [f"exit code {done.returncode}"])[-1].removeprefix("ERROR: ")
                raise UserError(
                    f"`{shlex.join(words)}` failed: {said}; `dvc pull -r starter` brings the committed run, "
                    "`dvc exp run` makes an experiment's"
                )
            incoming.rename(place)
        return place

    def text(self, path: str) -> str:
        """A file of the run that git keeps; raises UserError where the run has none."""
        return output(["git", "show", f"{self.ref}:{path}"])

    def metrics(self, path: str) -> Any:
        """The contents of a JSON file of the run's metrics; raises UserError where the run has none."""
        return json.loads(self.text(path))


def code_of(kinds: Sequence[str]) -> list[str]:
    """Hashes of the code that dvc.yaml lists for stages of these kinds (sample, answer), but for choices.

    What a choice of params.yaml runs is hashed where the choice is known.
    """
    deps = {
        dep
        for name, stage in load_stages(Path.cwd()).items()
        if name.partition("@")[0] in kinds
        for dep in stage.deps
        if dep.startswith("selma/") and not dep.startswith("selma/variants/")
    }
    paths = {dep: Path(dep) for dep in sorted(deps)}
    return [
        f"{dep} {folder_digest(path) if path.is_dir() else sha256_file(path)}" for dep, path in paths.items()
    ]


def keep_times(file: Path, stages: list[str]) -> None:
    """Keep the seconds that each stage took when it last ran here, beside the run: other runs overwrite them."""
    found = {name: times for name in stages if (times := timing.read(Path.cwd(), name))}
    write_json(file, {name: round(sum(times["seconds"].values()), 3) for name, times in found.items()})


def read_times(file: Path) -> dict[str, float]:
    """What `keep_times` kept: seconds by stage, of those that have run here."""
    return read_json(file) if file.is_file() else {}


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
