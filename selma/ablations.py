"""The comparison table: every row of ablations.yaml, over training seeds, at two operating points.

    python -m selma.ablations                        all of it; `make ablations`
    python -m selma.ablations --rows ties svd        these rows (and the two that gains are over)
    python -m selma.ablations --seeds 42             some of its seeds

Weights come from runs by `dvc exp run` (experiments.yaml); merges are made, and test prompts drawn and judged, here.
All of it is resumable: what was trained, merged or scored before is found again by a hash of what it depends on.

reads   ablations.yaml, experiments.yaml, params.yaml, models/backbones, models/judges
writes  metrics/ablations.csv       every row at both points: score, gains with intervals over seeds and prompts, cost
        metrics/ablations_dev.csv   every row's dev score by guidance
        docs/ablations.md, docs/ablations/*.svg, docs/ablations/pictures.png    for people, where all rows were computed
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from selma.ground.errors import UserError
from selma.ground.files import write_csv
from selma.ground.pairs import write_image
from selma.reporting import ablations as page
from selma.reporting import sheets
from selma.runtime import command, variants
from selma.runtime.devices import device_name, pick_device
from selma.runtime.dvcfile import load_stages
from selma.runtime.experiment import run_one
from selma.runtime.facts import flatten
from selma.runtime.params import load_params
from selma.runtime.schema import load_yaml, overridden
from selma.runtime.sets import load_sets
from selma.studies.plan import Run, of_row, plan
from selma.studies.points import Drawn, Examiner, best, scales_of
from selma.studies.results import COLUMNS, CURVE_COLUMNS, Cost, Found, Measured, curve_rows, table_rows
from selma.studies.rows import BEST, EXAMINED, Row, Table, chosen, load_table
from selma.studies.sources import Source, keep_times, say
from selma.studies.weights import Weights

WORK, TIMES = Path(".work/ablations"), "times.json"
OUT, CURVE, DOCS = Path("metrics/ablations.csv"), Path("metrics/ablations_dev.csv"), Path("docs")


def main(arguments: list[str] | None = None) -> int:
    """Compute the table; exit code 2 with one line for bad input."""
    parser = argparse.ArgumentParser(prog="python -m selma.ablations", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="rows to compute (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="some of the table's seeds")
    given = parser.parse_args(arguments)
    return command.run(
        lambda: _main(given.rows, given.seeds),
        interrupted="interrupted: run the same command again to resume",
    )


def _main(names: list[str] | None, seeds: list[int] | None) -> None:
    table = load_table()
    rows, wanted = chosen(table, names), _seeds(table, seeds)
    runs = plan(table, load_sets(), rows, wanted)
    params = load_params()
    found: dict[str, dict[int, Measured]] = {name: {} for name in rows}
    models: dict[str, Drawn] = {}  # of the first seed
    examiner: Examiner | None = None
    for (set_name, seed), run in sorted(runs.items(), key=lambda each: wanted.index(each[0][1])):
        source = _source(run)
        if examiner is None:
            benchmark = source.out("data/benchmarks") / table.benchmark
            examiner = Examiner(params, benchmark, table.images, WORK / "scores")
        weights = Weights(run.params, source, WORK / "merged", source.folder / TIMES)
        for name, row in rows.items():
            if row.set == set_name and seed in of_row(row, wanted):
                model, cost = _model(name, row, weights)
                models.setdefault(name, model)
                found[name][seed] = _measured(table, name, model, cost, seed, examiner)
        _write(table, {name: measured for name, measured in found.items() if measured})
    if names is None and seeds is None and examiner is not None:
        _write_page(table, found, {name: models[name] for name in rows}, examiner)


def _seeds(table: Table, seeds: list[int] | None) -> list[int]:
    if seeds is None:
        return list(table.seeds)
    for seed in seeds:
        if seed not in table.seeds:
            raise UserError(f"--seeds: {seed}; allowed: {', '.join(map(str, table.seeds))}")
    return [seed for seed in table.seeds if seed in seeds]


def _source(run: Run) -> Source:
    """The outs of a run, which is run first if it was not."""
    ref = run_one(run.set, run.name, dict(run.settings), run.targets)
    source = Source(ref, WORK / "runs" / ref.rpartition("/")[2])
    if not (source.folder / TIMES).is_file():
        changed = overridden(load_yaml(Path("params.yaml")), flatten(run.settings))
        keep_times(source.folder / TIMES, list(load_stages(Path.cwd(), changed)))
    return source


def _model(name: str, row: Row, weights: Weights) -> tuple[Drawn, Cost]:
    """What a row draws with, and what making it cost."""
    lora, cost = weights.of(name, row)
    options = variants.options("guidance", row.guidance, row.options, f"rows.{name}.options")
    return Drawn(lora, row.guidance, options), cost


def _measured(table: Table, name: str, model: Drawn, cost: Cost, seed: int, examiner: Examiner) -> Measured:
    """One row with one training seed: its dev curve, its own best guidance, and both points on test."""
    examined = examiner.params.evaluate.drawing.guidance
    curve, tuning = {}, Cost()
    for scale in scales_of(table.scales, examined):
        curve[scale], seconds = examiner.scores(model, "dev", scale, seed)
        tuning += Cost(0, examiner.drawn("dev"), examiner.questions("dev"), seconds)
    guidance = {EXAMINED: examined, BEST: best(curve)}
    scores = {point: examiner.scores(model, "test", scale, seed)[0] for point, scale in guidance.items()}
    said = ", ".join(
        f"{100 * fmean(found.values()):.1f} at {guidance[point]:g}" for point, found in scores.items()
    )
    say(f"seed {seed}, {name}: {said}")
    return Measured(guidance, scores, {EXAMINED: cost, BEST: cost + tuning}, curve)


def _write(table: Table, found: Found) -> None:
    if table.base in found and table.selma in found:
        write_csv(OUT, table_rows(table, found), COLUMNS)
        write_csv(CURVE, curve_rows(table, found), CURVE_COLUMNS)


def _write_page(table: Table, found: Found, models: Mapping[str, Drawn], examiner: Examiner) -> None:
    """docs/ablations.md and its figures; the pictures are of the first seed."""
    drawing = examiner.params.evaluate.drawing
    facts = {
        "prompts": len(examiner.items["test"]),
        "judge": examiner.params.judge.name,
        "drawing": f"{drawing.scheduler}, {drawing.steps} steps, {drawing.resolution} px",
        "examined": f"{drawing.guidance:g}",
        "machine": device_name(pick_device(examiner.params.runtime.device)),
    }
    page.write_page(DOCS, table, found, table_rows(table, found), facts)
    items = sheets.choose(examiner.items["test"], -(-table.pictures // 5), examiner.params.seed)[
        : table.pictures
    ]
    drawn = {name: examiner.images(model, items, table.seeds[0]) for name, model in models.items()}
    cells = [
        sheets.Cell(item.prompt, item.skill, {name: images[i] for name, images in drawn.items()})
        for i, item in enumerate(items)
    ]
    write_image(DOCS / "ablations/pictures.png", sheets.compose(cells))
    say(f"wrote {OUT}, {CURVE}, {DOCS / 'ablations.md'}")


if __name__ == "__main__":
    sys.exit(main())
