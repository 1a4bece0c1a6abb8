"""Aggregate the answers into scores, gains with 95% paired bootstrap intervals, plots and a grid of pictures.

    python -m stages.evaluate

reads   data/answers/<model>.jsonl    for every model in params
        data/samples/<model>/         for the grid; data/benchmarks/<benchmark>/
        data/other_answers/, data/preferences/   of evaluate.others, and by the judges in `preferences`
writes  metrics/eval.json             scores and gains (selma/scoring/summary.py)
        metrics/others.json           the other benchmarks' and the preference scores (selma/scoring/others.py)
        metrics/by_skill.csv          model, skill, score
        metrics/by_category.csv       model, category, score
        metrics/items.csv             item, skill, and a column of scores for each model
        data/grid/                    before_after.png, examples.json and the pictures that it names
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
from selma.scoring import others
from selma.scoring.scores import load_answers
from selma.scoring.summary import (
    BASE,
    MERGED,
    Scores,
    category_rows,
    example,
    item_rows,
    skill_rows,
    summarise,
)

PER_SKILL = 2  # prompts of each skill in the grid


def main() -> None:
    params = load_params()
    items = load_split(Path("data/benchmarks") / params.evaluate.benchmark, "test")
    models = {name: load_answers(Path("data/answers") / f"{name}.jsonl", items) for name in params.models}
    summary = summarise(models, params.merge.experts, resamples=params.evaluate.bootstrap, seed=params.seed)
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
        write_json(Path("metrics/eval.json"), summary)
        write_json(Path("metrics/others.json"), further)
        write_csv(Path("metrics/by_skill.csv"), skill_rows(models), ["model", "skill", "score"])
        write_csv(Path("metrics/by_category.csv"), category_rows(models), ["model", "category", "score"])
        rows = item_rows(models)
        write_csv(Path("metrics/items.csv"), rows, list(rows[0]))
        tracking.log_image(out / "before_after.png", "before_after")
        work.publish(out, Path("data/grid"))


def _write_grid(out: Path, items: list[Item], models: Scores, seed: int) -> None:
    """The sheet, the first picture of each chosen prompt by each model, and examples.json beside them."""
    files = {
        name: {pair.id: pair.file for pair in read_pairs(Path("data/samples") / name) if pair.k == 0}
        for name in models
    }
    drawn = [item for item in items if all(item.id in found for found in files.values())]
    if not drawn:
        raise UserError(
            f"data/samples: {' and '.join(models)} have no prompt in common; run the sample stage again"
        )
    cells, examples = [], []
    for item in sheets.choose(drawn, PER_SKILL, seed):
        images = {name: read_image(files[name][item.id]) for name in models}
        for name, image in images.items():
            write_image(out / name / files[name][item.id].name, image)
        cells.append(sheets.Cell(item.prompt, item.skill, images))
        pictures = {name: f"{name}/{files[name][item.id].name}" for name in models}
        examples.append(example(item, pictures, models))
    write_image(out / "before_after.png", sheets.compose(cells))
    write_json(out / "examples.json", examples)


if __name__ == "__main__":
    stage.run(main)
