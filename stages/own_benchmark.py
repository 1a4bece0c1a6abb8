"""Convert a benchmark in files of your own to the schema of all benchmarks; a test split.

    python -m stages.own_benchmark mine

reads   own.benchmarks.<name>.path   the file or, where the source has several (hps), a folder of them by their names
writes  data/benchmarks/<name>/      test.jsonl (one item per line, see selma/ground/items.py), and the files
                                     themselves, which selma.score reads

The path is a dependency: an edit of a file runs this again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.items import write_split
from selma.runtime import stage, variants, work
from selma.runtime.origins import own_files
from selma.runtime.params import load_params


def main(name: str) -> None:
    params = load_params()
    if name not in params.own.benchmarks:
        raise UserError(
            f"own.benchmarks: no benchmark {name!r} in params.yaml; "
            f"allowed: {', '.join(params.own.benchmarks) or 'none'}"
        )
    row = params.own.benchmarks[name]
    source = variants.load("benchmarks", row.source, f"own.benchmarks.{name}.source")
    files = own_files(Path(row.path), source.FILES, f"own.benchmarks.{name}.path")
    items = source.read(files)
    with work.folder(stage.name()) as folder:
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)  # incomplete, if a run was stopped here
        with work.called({out / "test.jsonl": row.path}):
            write_split(out, "test", items)
        for part, file in files.items():
            shutil.copyfile(file, out / source.FILES[part])
        work.publish(out, Path("data/benchmarks") / name)
    questions = sum(len(item.questions) for item in items)
    print(f"data/benchmarks/{name}: {len(items):,} prompts, {questions:,} questions")


if __name__ == "__main__":
    stage.run(main)
