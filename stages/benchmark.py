"""Bring a benchmark (prompts, questions, dependencies) into one schema, in dev and test splits.

    python -m stages.benchmark shapes

reads   nothing but params: `shapes` is made from its seed, the others are files by URL or local path, held
        against the sha256 in params; where none is pinned yet, the one to pin is printed
writes  data/benchmarks/<name>/   test.jsonl, for shapes dev.jsonl too (one item per line, see
                                  selma/benchmarks.py), and the files themselves, which selma.score reads
"""

from __future__ import annotations

import shutil
from pathlib import Path

from selma import benchmarks, download, sources
from selma.benchmarks import Item
from selma.ground import stage, work
from selma.ground.errors import UserError
from selma.ground.params import Benchmark, load_params


def main(name: str) -> None:
    params = load_params()
    if name not in params.benchmarks:
        raise UserError(f"benchmark {name!r} is not in params.yaml; allowed: {', '.join(params.benchmarks)}")
    settings = params.benchmarks[name]
    with work.folder(stage.name()) as folder:
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)  # half of one, if a run was stopped here
        if settings.source in sources.MADE:
            splits = sources.build(
                settings.source,
                seed=settings.seed,
                dev_per_skill=settings.dev_per_skill,
                test_per_skill=settings.test_per_skill,
            )
        else:
            splits = _read(name, settings, folder / "files", out)
        for split, items in splits.items():
            benchmarks.write_split(out, split, items)
        work.publish(out, Path("data/benchmarks") / name)


def _read(name: str, settings: Benchmark, brought: Path, out: Path) -> dict[str, list[Item]]:
    """The splits of a benchmark whose files are brought from elsewhere, and copies of the files in `out`."""
    whole = dict.fromkeys(sources.FILES.get(settings.source, ()), settings)  # the section itself is the file
    files: dict[str, Path] = {}
    for part, file in (settings.files or whole).items():
        target = brought / sources.file_name(settings.source, part)
        key = f"benchmarks.{name}.files.{part}" if settings.files else f"benchmarks.{name}"
        download.fetch(
            file.url or file.path,
            target,
            sha256=file.sha256,
            pin=f"{key}.sha256",
            progress=lambda chunks, total, label=target.name: stage.progress(chunks, total, label),
        )
        files[part] = target
    splits = sources.read(settings.source, files)
    shutil.copytree(brought, out)
    return splits


if __name__ == "__main__":
    stage.run(main)
