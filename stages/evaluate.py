"""Aggregate the answers into scores and gains with 95% bootstrap intervals, and compose a sheet of images.

    python -m stages.evaluate

reads   data/answers/<model>/<benchmark>.jsonl   for every model and benchmark in use
        data/preferences/<judge>/<model>/        by the judges in `preferences`
        data/samples/<model>/, data/benchmarks/
writes  metrics/headline.json         the compared models and their gains, for DVC's own tables
        metrics/eval.json             the leading benchmark: every model's score, every pair's gain (scoring/summary.py)
        metrics/benchmarks.json, metrics/preferences.json   the same of each further benchmark; preference scores
        metrics/by_skill.csv, metrics/by_category.csv   model, skill or category, score
        metrics/items.csv             item, skill, and a column of scores for each model
        data/grid/before_after.png    the sheet
        data/grid/examples/           examples.json and the images that it names
"""

from __future__ import annotations

import shutil
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import write_csv, write_json
from selma.ground.items import Item, load_split
from selma.ground.pairs import read_image, read_pairs, write_image
from selma.reporting import sheets
from selma.runtime import stage, tracking, work
from selma.runtime.params import load_params
from selma.scoring import measure
from selma.scoring import summary as scored

PER_SKILL = 2  # prompts of each skill in the grid
DATA, METRICS = Path("data"), Path("metrics")


def main() -> None:
    params = load_params()
    evaluate, models = params.evaluate, list(params.models)
    lead, *further = evaluate.benchmarks
    bootstrap = {"resamples": evaluate.bootstrap, "seed": params.seed}
    scores = measure.read_benchmark(DATA, lead, models)
    if not scores:
        raise UserError(f"data/benchmarks/{lead}: has no questions, so it cannot lead evaluate.benchmarks")
    drawn = {key: getattr(evaluate.drawing, key) for key in ("scheduler", "steps", "guidance", "resolution")}
    summary = {
        "benchmark": lead,
        "judge": params.judge.name,
        "drawing": drawn,
        **scored.summarise(scores, params.compare, **bootstrap),
    }
    others = measure.further_benchmarks(DATA, further, models, params.compare, **bootstrap)
    preferred = measure.preferences(
        DATA, evaluate.benchmarks, params.preferences, models, params.compare, **bootstrap
    )
    with work.folder(stage.name()) as folder:
        out = folder / "grid"
        shutil.rmtree(out, ignore_errors=True)  # incomplete, if a run was stopped here
        after, before = params.compare[0]
        _write_grid(out, lead, {name: scores[name] for name in (before, after)}, params.seed)
        metrics = folder / "metrics"
        write_json(metrics / "headline.json", scored.headline(summary))
        write_json(metrics / "eval.json", summary)
        write_json(metrics / "benchmarks.json", others)
        write_json(metrics / "preferences.json", preferred)
        write_csv(metrics / "by_skill.csv", scored.skill_rows(scores), ["model", "skill", "score"])
        write_csv(metrics / "by_category.csv", scored.category_rows(scores), ["model", "category", "score"])
        write_csv(metrics / "items.csv", rows := scored.item_rows(scores), list(rows[0]))
        tracking.log_image(out / "before_after.png", "before_after")
        tracking.log_results({"gain": summary["gains"][scored.over(after, before)]})
        work.publish_all(
            {file: METRICS / file.name for file in sorted(metrics.iterdir())}
            | {file: DATA / "grid" / file.name for file in sorted(out.iterdir())}
        )


def _write_grid(out: Path, benchmark: str, models: scored.Scores, seed: int) -> None:
    """The sheet, and in `examples` the first image of each chosen prompt by each model with examples.json."""
    items: list[Item] = load_split(DATA / "benchmarks" / benchmark, "test")
    files = {
        name: {pair.id: pair.file for pair in read_pairs(DATA / "samples" / name / benchmark) if pair.k == 0}
        for name in models
    }
    drawn = [item for item in items if all(item.id in found for found in files.values())]
    if not drawn:
        raise UserError(f"data/samples: {' and '.join(models)} share no prompt; run the sample stage again")
    cells, examples = [], []
    for item in sheets.choose(drawn, PER_SKILL, seed):
        images = {name: read_image(files[name][item.id]) for name in models}
        pictures = {name: f"{name}/{item.id}-0{files[name][item.id].suffix}" for name in models}
        for name, image in images.items():
            write_image(out / "examples" / pictures[name], image)
        cells.append(sheets.Cell(item.prompt, item.skill, images))
        examples.append(scored.example(item, pictures, models))
    write_image(out / "before_after.png", sheets.compose(cells))
    write_json(out / "examples/examples.json", examples)


if __name__ == "__main__":
    stage.run(main)
