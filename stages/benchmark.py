"""Convert a benchmark (prompts, questions, dependencies) to one schema, in dev and test splits.

    python -m stages.benchmark shapes

reads   nothing but params: `shapes` is made from its seed, the others are files by URL, checked against the sha256
        in params; where none is pinned yet, the one to pin is printed
writes  data/benchmarks/<name>/   test.jsonl, for shapes dev.jsonl too (one item per line, see
                                  selma/ground/items.py), and the files themselves, which selma.score reads
"""

from __future__ import annotations

import shutil
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.items import write_split
from selma.net import download
from selma.runtime import stage, variants, work
from selma.runtime.params import Benchmark, load_params


def main(name: str) -> None:
    params = load_params()
    if name not in params.benchmarks:
        raise UserError(f"benchmark {name!r} is not in params.yaml; allowed: {', '.join(params.benchmarks)}")
    settings = params.benchmarks[name]
    source = variants.load("benchmarks", settings.source, f"benchmarks.{name}.source")
    with work.folder(stage.name()) as folder:
        out, names = folder / "out", {}
        shutil.rmtree(out, ignore_errors=True)  # incomplete, if a run was stopped here
        if hasattr(source, "make"):
            splits = source.make(**{key: getattr(settings, key) for key in source.NEEDS})
        else:
            files, names = _fetch(name, settings, source.FILES, folder / "files")
            with work.called(names):
                splits = {"test": source.read(files)}
            shutil.copytree(folder / "files", out)
        for split, items in splits.items():
            with work.called({out / f"{split}.jsonl": ", ".join(names.values()) or f"benchmark {name}"}):
                write_split(out, split, items)
        work.publish(out, Path("data/benchmarks") / name)


def _fetch(
    name: str, settings: Benchmark, names: dict[str, str], folder: Path
) -> tuple[dict[str, Path], dict[Path, str]]:
    """A benchmark's files by part, in `folder` under `names`, and where each came from, as messages name it.

    Where it is one file, the section itself says which.
    """
    found: dict[str, Path] = {}
    origins: dict[Path, str] = {}
    for part, file in (settings.files or dict.fromkeys(names, settings)).items():
        found[part] = folder / names[part]
        origins[found[part]] = download.shown(file.url)
        key = f"benchmarks.{name}.files.{part}" if settings.files else f"benchmarks.{name}"
        download.fetch(
            file.url,
            found[part],
            sha256=file.sha256,
            pin=f"{key}.sha256",
            progress=lambda chunks, total, label=names[part]: stage.progress(chunks, total, label),
        )
    return found, origins


if __name__ == "__main__":
    stage.run(main)
