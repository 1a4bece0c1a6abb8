"""What params.yaml names of one's own is looked at before anything runs: DVC says of a missing path what Python says,
and of a file's form nothing before the stage that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.items import Item
from selma.ground.pairs import read_training
from selma.runtime import variants
from selma.runtime.dvcfile import load_stages
from selma.runtime.origins import OwnBenchmark, own_files
from selma.runtime.params import Params


def check_own(params: Params) -> None:
    """Raise UserError for paths of `own` that are not here, for benchmarks in files whose form is wrong or whose
    questions the judge cannot read, and for images to train on whose captions or files are not sound."""
    made = [Path(out) for stage in load_stages(Path.cwd()).values() for out in stage.made]
    for key, path in _paths(params):
        if not path.exists() and not any(path == out or out in path.parents for out in made):
            raise UserError(f"{key} is {path}, which is not here; name a file or folder that is")
    for name, row in params.own.benchmarks.items():
        items = read_benchmark(name, row)
        if name in params.evaluate.benchmarks:
            check_questions(params.judge.kind, items)
    for name, expert in params.experts.items():
        folder = Path(expert.data)
        if folder.is_relative_to("data") and not folder.is_relative_to("data/own"):
            continue  # the pipeline's
        if not folder.is_dir():
            raise UserError(f"experts.{name}.data is {folder}, which is not here; name a folder that is")
        read_training(folder)


def read_benchmark(name: str, row: OwnBenchmark) -> list[Item]:
    """The items of a benchmark in files; raises UserError, naming the file and what is wrong with it."""
    source = variants.load("benchmarks", row.source, f"own.benchmarks.{name}.source")
    return source.read(own_files(Path(row.path), source.FILES, f"own.benchmarks.{name}.path"))


def check_questions(kind: str, items: list[Item]) -> None:
    """Raise UserError for a question that a judge of this kind cannot read, of kinds that say so without weights."""
    judge = variants.load("judges", kind, "judge.kind")
    if hasattr(judge, "check"):
        judge.check([question for item in items for question in item.questions])


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
