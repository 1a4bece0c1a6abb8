"""Aggregate the answers into scores, gains with 95% paired bootstrap intervals, plots and a grid of pictures.

    python -m stages.evaluate

reads   data/answers/<model>.jsonl    for every model in params
        data/samples/<model>/         for the grid; data/benchmarks/<benchmark>/
        data/other_answers/, data/preferences/   of evaluate.others, and by the judges in `preferences`
writes  metrics/eval.json             scores and gains (selma/evaluation.py)
        metrics/others.json           the other benchmarks' and the preference scores (selma/others.py)
        metrics/by_skill.csv          model, skill, score
        metrics/by_category.csv       model, category, score
        metrics/items.csv             item, skill, and a column of scores for each model
        data/grid/                    before_after.png, examples.json and the pictures that it names
"""

from __future__ import annotations

import shutil
from pathlib import Path

from selma import benchmarks, evaluation, grid, others, scoring, tracking
from selma.benchmarks import Item
from selma.evaluation import BASE, MERGED, Scores
from selma.ground import records, stage, work
from selma.ground.errors import UserError
from selma.ground.params import load_params

PER_SKILL = 2  # prompts of each skill in the grid


def main() -> None:
    params = load_params()
    items = benchmarks.load_split(Path("data/benchmarks") / params.evaluate.benchmark, "test")
    models = {
        name: scoring.load_answers(Path("data/answers") / f"{name}.jsonl", items) for name in params.models
    }
    summary = evaluation.summarise(
        models, params.merge.experts, resamples=params.evaluate.bootstrap, seed=params.seed
    )
    further = others.measure(
        Path("data"),
        params.evaluate.benchmark,
        params.evaluate.others,
        models=list(params.models),
        judges=params.preferences,
        experts=params.merge.experts,
        resamples=params.evaluate.bootstrap,
        seed=params.seed,
    )
    with work.folder(stage.name()) as folder:
        out = folder / "grid"
        shutil.rmtree(out, ignore_errors=True)  # half of one, if a run was stopped here
        shown = {name: models[name] for name in (BASE, MERGED) if name in models}
        _write_grid(out, items, shown, params.seed)
        records.write_json(Path("metrics/eval.json"), summary)
        records.write_json(Path("metrics/others.json"), further)
        records.write_csv(
            Path("metrics/by_skill.csv"), evaluation.skill_rows(models), ["model", "skill", "score"]
        )
        records.write_csv(
            Path("metrics/by_category.csv"), evaluation.category_rows(models), ["model", "category", "score"]
        )
        rows = evaluation.item_rows(models)
        records.write_csv(Path("metrics/items.csv"), rows, list(rows[0]))
        tracking.log_image(out / "before_after.png", "before_after")
        work.publish(out, Path("data/grid"))


def _write_grid(out: Path, items: list[Item], models: Scores, seed: int) -> None:
    """The sheet, the first picture of each chosen prompt by each model, and examples.json beside them."""
    files = {
        name: {pair.id: pair.file for pair in records.read_pairs(Path("data/samples") / name) if pair.k == 0}
        for name in models
    }
    drawn = [item for item in items if all(item.id in found for found in files.values())]
    if not drawn:
        raise UserError(
            f"data/samples: {' and '.join(models)} have no prompt in common; run the sample stage again"
        )
    cells, examples = [], []
    for item in grid.choose(drawn, PER_SKILL, seed):
        images = {name: records.read_image(files[name][item.id]) for name in models}
        for name, image in images.items():
            records.write_image(out / name / files[name][item.id].name, image)
        cells.append(grid.Cell(item.prompt, item.skill, images))
        pictures = {name: f"{name}/{files[name][item.id].name}" for name in models}
        examples.append(evaluation.example(item, pictures, models))
    records.write_image(out / "before_after.png", grid.compose(cells))
    records.write_json(out / "examples.json", examples)


if __name__ == "__main__":
    stage.run(main)
