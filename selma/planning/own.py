"""What params.yaml names of one's own is looked at before anything runs: DVC says of a missing path what Python says,
and of a file's form nothing before the stage that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.pairs import read_training
from selma.runtime import variants
from selma.runtime.dvcfile import load_stages
from selma.runtime.origins import own_files
from selma.runtime.params import Params


def check_own(params: Params) -> None:
    """Raise UserError for paths of `own` that are not here, for benchmarks in files whose form is wrong or whose
    questions the judge cannot read, and for images to train on whose captions or files are not sound."""
    made = [Path(out) for stage in load_stages(Path.cwd()).values() for out in stage.made]
    for key, path in _paths(params):
        if not path.exists() and not any(path == out or out in path.parents for out in made):
            raise UserError(f"{key} is {path}, which is not here; name a file or folder that is")
    judge = variants.load("judges", params.judge.kind, "judge.kind")
    for name, row in params.own.benchmarks.items():
        key = f"own.benchmarks.{name}"
        source = variants.load("benchmarks", row.source, f"{key}.source")
        items = source.read(own_files(Path(row.path), source.FILES, f"{key}.path"))
        # Judges with a check need no weights for it.
        if name in params.evaluate.benchmarks and hasattr(judge, "check"):
            judge.check([question for item in items for question in item.questions])
    for name, expert in params.experts.items():
        folder = Path(expert.data)
        if folder.is_relative_to("data") and not folder.is_relative_to("data/own"):
            continue  # the pipeline's
        if not folder.is_dir():
            raise UserError(f"experts.{name}.data is {folder}, which is not here; name a folder that is")
        compares = variants.constants("objectives", expert.objective).get("PAIRS", False)
        read_training(folder, needed_by=expert.objective if compares else None)


def _paths(params: Params) -> Iterator[tuple[str, Path]]:
    own = params.own
    for section, rows in (
        ("backbones", own.backbones),
        ("benchmarks", own.benchmarks),
        ("judges", own.judges),
        ("loras", own.loras),
    ):
        for name, row in rows.items():
            yield f"own.{section}.{name}.path", Path(row.path)
