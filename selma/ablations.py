"""The comparison table: every row of ablations.yaml, over training seeds, at two operating points.

    python -m selma.ablations                        all of it; `make ablations`
    python -m selma.ablations --page selfimprove     the rows of one page, which is written; `make selfimprove`
    python -m selma.ablations --rows ties svd        these rows (and the two that gains are over), printed, not written
    python -m selma.ablations --seeds 42             some of its seeds, printed, not written
    python -m selma.ablations --rows nft --at 1      examined at this guidance, printed, not written

Weights come from runs by `dvc exp run` (experiments.yaml); merges are made, and test prompts drawn and judged, here.
All of it is resumable: what was trained, merged or scored before is found again by a hash of what it depends on.

reads   ablations.yaml, experiments.yaml, params.yaml, models/backbones, models/judges
writes  metrics/ablations.csv       every row at both points: score, gains with intervals over seeds and prompts, cost;
                                    with --page its rows, beside those of other pages as they were
        metrics/ablations_dev.csv   every row's dev score by guidance
        docs/<page>.md, docs/<page>/*.svg, docs/<page>/pictures.png    for people, of each page
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any

from tabulate import tabulate

from selma.ground.errors import UserError
from selma.ground.files import write_csv
from selma.ground.items import Item, load_split, splits
from selma.ground.pairs import write_image
from selma.reporting import ablations as page
from selma.reporting import learned, sheets
from selma.reporting.rounds import chain_of
from selma.reporting.rounds import figure as rounds_figure
from selma.reporting.svg import save
from selma.runtime import command, variants
from selma.runtime.devices import device_name, pick_device
from selma.runtime.dvcfile import load_stages
from selma.runtime.experiment import run_one
from selma.runtime.facts import flatten
from selma.runtime.origins import embedded
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES, JUDGES
from selma.runtime.schema import load_yaml, overridden
from selma.runtime.sets import load_sets
from selma.studies.choices import Choice, choice_lines, choice_of
from selma.studies.learning import Curves, beside, policy_curve
from selma.studies.plan import Run, of_row, plan
from selma.studies.points import Drawn, Examiner, best, far_from, scales_of
from selma.studies.results import COLUMNS, CURVE_COLUMNS, Cost, Found, Measured, curve_rows, table_rows
from selma.studies.rounds import Judged, judge_lines, judged_draws
from selma.studies.rows import BEST, EXAMINED, PAGES, Row, Table, chosen, for_page, load_table, on_page
from selma.studies.sources import Source, keep_times, say
from selma.studies.weights import Weights

WORK, TIMES = Path(".work/ablations"), "times.json"
OUT, CURVE, DOCS = Path("metrics/ablations.csv"), Path("metrics/ablations_dev.csv"), Path("docs")
MOST_GUIDANCE = 1000.0  # as params.yaml allows
PER_SKILL = 2  # pictures of prompts on which models differ
SHOWN = ("row", "point", "guidance", "score", "gain", "low", "high", "seeds")  # on the terminal


def main(arguments: list[str] | None = None) -> int:
    """Compute the table; exit code 2 with one line for bad input."""
    parser = command.Parser(prog="python -m selma.ablations", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="rows to compute (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="some of the table's seeds")
    parser.add_argument("--page", choices=PAGES, help="the rows of one page, which is written")
    parser.add_argument("--at", type=float, metavar="GUIDANCE", help="another guidance to examine at")
    given = parser.parse_args(arguments)
    return command.run(
        lambda: _main(given.rows, given.seeds, given.page, given.at),
        interrupted="interrupted: run the same command again to resume",
    )


def _main(
    names: list[str] | None, seeds: list[int] | None, page: str | None = None, at: float | None = None
) -> None:
    if page and (names or seeds or at is not None):
        raise UserError(
            "--page computes all rows of a page with all seeds; leave out --rows, --seeds and --at"
        )
    if at is not None and not 0 <= at <= MOST_GUIDANCE:
        raise UserError(f"--at: {at:g}; allowed: 0 to {MOST_GUIDANCE:g}")
    table = load_table()
    wanted = _seeds(table, seeds)
    names = on_page(table, page) if page else names
    rows = {name: row for name, row in chosen(table, names).items() if names or of_row(row, wanted)}
    runs = plan(table, load_sets(), rows, wanted)
    params = load_params()
    backbones = dict.fromkeys(Path(BACKBONES) / run.params.expert.backbone for run in runs.values())
    for needed in (*backbones, JUDGES / params.judge.name):
        if not needed.is_dir():
            shipped = needed.name in embedded(params.worlds) and needed.parent == Path(BACKBONES)
            by = (
                "`dvc pull -r starter pretrain pretrain_xl pretrain_mm` brings"
                if shipped
                else "`dvc repro` makes"
            )
            raise UserError(f"{needed}: not here yet, and rows are drawn and judged with it; {by} it")
    found: dict[str, dict[int, Measured]] = {name: {} for name in rows}
    models: dict[str, Drawn] = {}  # of the first seed
    curves: Curves = {name: {} for name in rows}  # of policies
    choices: dict[str, dict[int, Choice]] = {name: {} for name in rows}  # of chosen images
    rounds: dict[str, dict[int, Judged]] = {}  # by set, of drawings that were judged
    examiner: Examiner | None = None
    for (set_name, seed), run in runs.items():
        source = _source(run)
        if examiner is None:
            examiner = Examiner(
                params, source.out("data/benchmarks") / table.benchmark, table.images, WORK / "scores"
            )
            counted = _counted(examiner, source.out("data/benchmarks") / run.params.evaluate.benchmarks[0])
        weights = Weights(run.params, source, WORK / "merged", source.folder / TIMES)
        judged = judged_draws(source, run.params)
        if len(judged) > 1 and next(iter(judged)) not in run.params.experts:  # from the base on
            rounds.setdefault(set_name, {})[seed] = judged
        for name, row in rows.items():
            if row.set == set_name and seed in of_row(row, wanted):
                model, cost = _model(name, row, weights)
                models.setdefault(name, model)
                found[name][seed] = _measured(table, name, model, cost, seed, examiner, counted, at)
                if row.expert in run.params.policies:
                    curves[name][seed] = policy_curve(source, row.expert, cost.seconds)
                if (choice := choice_of(source, run.params, row.expert)) is not None:
                    choices[name][seed] = choice
    lines = table_rows(table, found)
    print(tabulate([[row[key] for key in SHOWN] for row in lines], SHOWN, disable_numparse=True))
    if (page or (names is None and seeds is None and at is None)) and examiner is not None:
        write_csv(OUT, beside(table, OUT, lines, page), COLUMNS)
        write_csv(CURVE, beside(table, CURVE, curve_rows(table, found), page), CURVE_COLUMNS)
        for each in [page] if page else PAGES:
            _write_page(each, table, found, lines, models, counted, examiner, curves, choices, rounds)


def _seeds(table: Table, seeds: list[int] | None) -> list[int]:
    if seeds is None:
        return list(table.seeds)
    for seed in seeds:
        if seed not in table.seeds:
            raise UserError(f"--seeds: {seed}; allowed: {', '.join(map(str, table.seeds))}")
    return [seed for seed in table.seeds if seed in seeds]


def _counted(examiner: Examiner, lead: Path) -> list[str]:
    """The test items that count: those unlike the prompts that checkpoints were chosen by, of another benchmark."""
    dev = load_split(lead, "dev") if "dev" in splits(lead) else []
    return far_from(examiner.items["test"], dev)


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
    return Drawn(lora, row.guidance, options, weights.params.expert.backbone), cost


def _measured(
    table: Table,
    name: str,
    model: Drawn,
    cost: Cost,
    seed: int,
    examiner: Examiner,
    counted: Sequence[str],
    at: float | None,
) -> Measured:
    """One row with one training seed: its dev curve, its own best guidance, and both points on test.

    It is examined at the guidance of params.yaml, or `at` another.
    """
    examined = examiner.params.evaluate.drawing.guidance if at is None else at
    curve, tuning = {}, Cost()
    for scale in scales_of(table.scales, examined):
        curve[scale], seconds = examiner.scores(model, "dev", scale, seed)
        tuning += Cost(0, examiner.drawn("dev"), examiner.questions("dev"), seconds)
    guidance = {EXAMINED: examined, BEST: best(curve)}
    drawn = {point: examiner.scores(model, "test", scale, seed)[0] for point, scale in guidance.items()}
    scores = {point: {item: found[item] for item in counted} for point, found in drawn.items()}
    said = ", ".join(
        f"{100 * fmean(found.values()):.1f} at {guidance[point]:g}" for point, found in scores.items()
    )
    say(f"seed {seed}, {name}: {said}")
    return Measured(guidance, scores, {EXAMINED: cost, BEST: cost + tuning}, curve)


def _write_page(
    name: str,
    table: Table,
    found: Found,
    lines: Sequence[Mapping[str, Any]],
    models: Mapping[str, Drawn],
    counted: Sequence[str],
    examiner: Examiner,
    curves: Curves,
    choices: Mapping[str, Mapping[int, Choice]],
    rounds: Mapping[str, Mapping[int, Judged]],
) -> None:
    """docs/<name>.md and its figures; the pictures are of the first seed."""
    shown = [row for row in on_page(table, name) if row in found]
    drawing = examiner.drawing(models[for_page(table, name).base])
    facts = {
        "page": name,
        "again": name != PAGES[0] and name not in table.over,
        "prompts": len(counted),
        "left_out": len(examiner.items["test"]) - len(counted),
        "dev_prompts": len(examiner.items["dev"]),
        "judge": examiner.params.judge.name,
        "drawing": f"{drawing.scheduler}, {drawing.steps} steps, {drawing.resolution} px",
        "examined": f"{drawing.guidance:g}",
        "machine": device_name(pick_device(examiner.params.runtime.device)),
    }
    facts["chosen"] = choice_lines({row: choices[row] for row in shown})
    table = for_page(table, name)
    own = {row: found[row] for row in shown}
    extra: dict[str, Any] = {}
    if any(curves[row] for row in shown):
        extra = learned.extra(table, own, curves, examiner.items["test"], DOCS / name)
        extra["differing"] = learned.differing(table, own, examiner.items["test"], PER_SKILL)
        _write_sheet(
            DOCS / name / "differing.png",
            {row: models[row] for row in (table.base, table.selma, extra["differing"].row)},
            extra["differing"].items,
            examiner,
            table.seeds[0],
        )
    sets = dict.fromkeys(table.rows[row].set for row in shown if table.rows[row].page == name)
    judged = [list(rounds[each].values()) for each in sets if each in rounds]
    facts["rounds"] = [judge_lines(seeds) for seeds in judged]
    if judged:
        facts["by_group"] = learned.by_group(table, own, examiner.items["test"])
        chain = chain_of(judged[0][0], {row: table.rows[row] for row in shown})
        save(DOCS / name / "rounds.svg", rounds_figure(table, own, chain, examiner.items["test"]))
    page.write_page(DOCS, table, own, [line for line in lines if line["row"] in own], facts, extra)
    test = examiner.items["test"]
    per_skill = ceil(table.pictures / len({item.skill for item in test}))
    items = sheets.choose(test, per_skill, examiner.params.seed)[: table.pictures]
    sheet = DOCS / name / "pictures.png"
    _write_sheet(sheet, {row: models[row] for row in shown if row in models}, items, examiner, table.seeds[0])
    say(f"wrote {OUT}, {CURVE}, {DOCS / name}.md")


def _write_sheet(
    file: Path, models: Mapping[str, Drawn], items: Sequence[Item], examiner: Examiner, seed: int
) -> None:
    """What the models draw of the same prompts from the same noise, one above the other."""
    drawn = {row: examiner.images(model, items, seed) for row, model in models.items()}
    cells = [
        sheets.Cell(item.prompt, item.skill, {row: images[i] for row, images in drawn.items()})
        for i, item in enumerate(items)
    ]
    write_image(file, sheets.compose(cells))


if __name__ == "__main__":
    sys.exit(main())
