"""Bring a benchmark (prompts, questions, dependencies) into one schema, in dev and test splits.

    python -m stages.benchmark shapes

reads   nothing but params: the embedded exam is made from the seed
writes  data/benchmarks/<name>/   dev.jsonl, test.jsonl (one item per line, see selma/benchmarks.py)
"""

from __future__ import annotations

from pathlib import Path

from selma import benchmarks, sources, stage, work
from selma.errors import UserError
from selma.params import load_params


def main(name: str) -> None:
    params = load_params()
    if name not in params.benchmarks:
        raise UserError(f"benchmark {name!r} is not in params.yaml; allowed: {', '.join(params.benchmarks)}")
    settings = params.benchmarks[name]
    splits = sources.build(
        settings.source,
        seed=settings.seed,
        dev_per_skill=settings.dev_per_skill,
        test_per_skill=settings.test_per_skill,
    )
    with work.folder(stage.name()) as folder:
        out = folder / "splits"
        for split, items in splits.items():
            benchmarks.write_split(out, split, items)
        work.publish(out, Path("data/benchmarks") / name)


if __name__ == "__main__":
    stage.run(main)
