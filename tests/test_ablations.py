"""The comparison table: what rows may say, what is claimed from scores, and that nothing is scored twice."""

from __future__ import annotations

import copy
import csv
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from ruamel.yaml import YAML

from selma import ablations
from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.ground.items import Item, Question, write_split
from selma.reporting import ablations as page
from selma.reporting import learned, rounds
from selma.runtime.params import Params, build_params, load_params
from selma.runtime.schema import load_yaml
from selma.runtime.sets import load_sets
from selma.scoring import exam
from selma.scoring.seeds import over_seeds
from selma.studies.learning import beside
from selma.studies.plan import experts_of, plan
from selma.studies.points import Drawn, Examiner, best, far_from, scales_of
from selma.studies.results import (
    COLUMNS,
    Cost,
    Measured,
    against,
    curve_rows,
    gain,
    sentence,
    table_rows,
    verdict,
)
from selma.studies.rounds import judge_lines, judged_draws
from selma.studies.rows import BEST, EXAMINED, PAGES, POINTS, Claim, chosen, load_table, on_page
from tests.test_curve import item
from tests.test_sample_stage import SETTINGS, put_lora

ROOT = Path(__file__).parents[1]
CLAIM = {"over": "base", "finds": "better", "says": "Better."}
MERGE = {"operator": "factor_mean", "experts": None}
WEIGHED = {"operator": "weighted", "experts": None}
TABLE = {
    "benchmark": "exam",
    "images": 1,
    "scales": [1.5, 2.0],
    "seeds": [42, 43, 44],
    "base": "base",
    "selma": "selma",
    "pictures": 2,
    "rows": {
        "base": {"desc": "the base"},
        "selma": {
            "desc": "merged",
            "merge": MERGE,
            "paper": "DSG 77.7",
            "claim": {"over": "base", "finds": "better", "says": "Better than its base."},
        },
        "delta": {"desc": "the mean", "merge": {**MERGE, "operator": "delta_mean"}},
    },
}


def write(folder: Path, **changes: object) -> Path:
    """ablations.yaml with changes: a dotted key and its value."""
    found = copy.deepcopy(TABLE)
    for key, value in changes.items():
        *path, last = key.split("__")
        inner = found
        for part in path:
            inner = inner[part]
        inner[last] = value
    with open(folder / "ablations.yaml", "w") as file:
        YAML().dump(found, file)
    return folder / "ablations.yaml"


# Rows --------------------------------------------------------------------------------------------


def test_the_committed_rows_can_be_made_from_the_committed_sets(monkeypatch):
    monkeypatch.chdir(ROOT)
    table = load_table()
    runs = plan(table, load_sets(), table.rows, table.seeds)
    assert {seed for _, seed in runs} == set(table.seeds) and len(table.seeds) >= 3
    assert all(run.params.seed == seed for (_, seed), run in runs.items())


def test_every_objective_and_picker_has_a_row(monkeypatch):
    monkeypatch.chdir(ROOT)
    table = load_table()
    trained: set[str] = set()
    chosen_by: set[str] = set()
    for (name, _), run in plan(table, load_sets(), table.rows, table.seeds[:1]).items():
        for each in (
            each for row in table.rows.values() if row.set == name for each in experts_of(row, run.params)
        ):
            if each in run.params.mixtures:
                trained.add(run.params.mixtures[each].objective)
            elif each in run.params.experts:
                expert = run.params.experts[each]
                trained.add(expert.objective)
                chosen_by |= {
                    pick.picker for key, pick in run.params.picks.items() if expert.data.endswith(f"/{key}")
                }
    for door, found in (("objectives", trained), ("pickers", chosen_by)):
        assert {path.stem for path in (ROOT / "selma/variants" / door).glob("[!_]*.py")} == found


def test_every_operator_and_guidance_method_has_a_row():
    rows = load_table(ROOT / "ablations.yaml").rows.values()
    files = {path.stem for path in (ROOT / "selma/variants/operators").glob("[!_]*.py")}
    assert {row.merge.operator for row in rows if row.merge} == files
    methods = {path.stem for path in (ROOT / "selma/variants/guidance").glob("[!_]*.py")}
    assert {row.guidance for row in rows} == methods


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows__delta__merge": {**MERGE, "operator": "mean"}}, "operator is 'mean'; it must be one of"),
        (
            {"rows__delta__merge": {"operator": "ties", "experts": None, "options": {"density": 1.5}}},
            "rows.delta.merge.options: density is 1.5",
        ),
        ({"rows__delta__expert": "count"}, "rows.delta: has an expert and a merge"),
        ({"rows__base__guidance": "none"}, "guidance is 'none'"),
        ({"rows__base__options": {"step": 1}}, "rows.base.options: cfg has no settings"),
        ({"rows__selma__claim__over": "nobody"}, "claim.over is nobody; allowed: base, delta"),
        ({"rows__selma__claim__finds": "equal"}, "finds is 'equal'; it must be one of: better, worse"),
        ({"scales": [2.0, 1.5]}, "scales is [2.0, 1.5]; it must rise"),
        ({"seeds": [42, 42]}, "seeds is [42, 42]; it must rise"),
        ({"rows__delta__seeds": [7]}, "rows.delta.seeds holds 7; allowed: 42, 43, 44"),
        ({"rows__selma__seeds": [42]}, "rows.selma: gains are over it"),
        ({"rows__base__seeds": [42]}, "rows.base: gains are over it"),
        ({"rows__delta__seeds": [42], "rows__delta__claim": CLAIM}, "rows.delta: has a claim"),
        ({"seeds": [42, 43]}, "rows.selma: has a claim, which 3 seeds or more must carry"),
        (
            {"rows__delta__seeds": [42], "rows__selma__claim__over": "delta"},
            "claim.over is delta; allowed: base",
        ),
        ({"rows__selma__claim__over": "selma"}, "claim.over is selma; allowed: base, delta"),
        ({"base": "delta"}, "base is delta; it must be a row without expert and merge"),
        ({"selma": "base"}, "base is base; it must be a row without expert and merge, and not selma"),
        ({"rows__delta__desc": "a | b"}, "it must be one line without |"),
        ({"rows__delta__paper": "a\nb"}, "it must be one line without |"),
        ({"scales": [1e30]}, "it must be less than or equal to 1000"),
        ({"base": "nobody"}, "base is nobody; allowed: base, selma, delta"),
        (
            {"over": {"stronger": {"base": "base", "selma": "xl"}}},
            "over.stronger: base is base; allowed: no row",
        ),
        ({"over": {"ablations": {"base": "base", "selma": "delta"}}}, "a key of over is 'ablations'"),
        ({"rows__delta__dsc": ""}, "unknown key rows.delta.dsc; did you mean desc?"),
    ],
)
def test_a_table_that_cannot_be_is_one_line(tmp_path, changes, said):
    with pytest.raises(UserError) as raised:
        load_table(write(tmp_path, **changes))
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows__delta__set": "nothing"}, "rows.delta.set is nothing; it must be one in experiments.yaml"),
        ({"rows__delta__set": "steps"}, "has 2 runs of seed 42"),
        (
            {"rows__delta": {"desc": "", "set": "stronger", "expert": "single"}},
            "rows.delta: draws by shapes_xl, and base, which its gain is over, by shapes; put it on a page",
        ),
        ({"benchmark": "dsg"}, "ablations.yaml: benchmark is dsg"),
        (
            {"rows__delta__merge": {**MERGE, "experts": ["objects", "nobody"]}},
            "rows.delta holds nobody",
        ),
        (
            {"rows__delta__set": "flips", "rows__delta__merge": None, "rows__delta__expert": "single"},
            "single",
        ),
        ({"seeds": [42, 43, 77]}, "has 0 runs of seed 77"),
        (
            {"rows__delta__merge": WEIGHED | {"options": {"weights": {"nobody": 1.0}}}},
            "rows.delta.merge.options: ",
        ),
        (
            {"rows__delta__merge": WEIGHED | {"options": {"weights": {"count": 1.0}}}},
            "rows.delta.merge.options: ",
        ),
    ],
)
def test_rows_that_no_run_makes_are_refused_before_a_run_begins(tmp_path, monkeypatch, capsys, changes, said):
    for file in ("params.yaml", "dvc.yaml", "experiments.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    write(tmp_path, **changes)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablations, "run_one", lambda *_: pytest.fail("nothing may run"))
    assert ablations.main([]) == 2
    line = capsys.readouterr().err.strip()
    assert said in line and "\n" not in line


def test_a_benchmark_without_a_dev_split_is_refused(tmp_path, monkeypatch, capsys):
    for file in ("params.yaml", "dvc.yaml", "experiments.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    sets = (tmp_path / "experiments.yaml").read_text()
    dsg = "{source: dsg, url: 'https://example.org/dsg.csv'}"
    sets = sets.replace("{source: shapes, seed: 7, dev_per_skill: 20, test_per_skill: 120}", dsg)
    (tmp_path / "experiments.yaml").write_text(sets)
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert ablations.main([]) == 2
    assert "benchmark is exam, which has no dev split to choose guidance on" in capsys.readouterr().err


def test_what_draws_and_judges_must_be_there_before_a_run_begins(tmp_path, monkeypatch, capsys):
    for file in ("params.yaml", "dvc.yaml", "experiments.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablations, "run_one", lambda *_: pytest.fail("nothing may run"))
    for missing in ("models/backbones/shapes", "models/judges/oracle"):
        assert ablations.main([]) == 2
        assert capsys.readouterr().err.startswith(f"error: {missing}: not here yet")
        (tmp_path / missing).mkdir(parents=True)


OVER = {
    "rows": {
        **TABLE["rows"],
        "xl": {"desc": "another base", "page": "stronger"},
        "xl_selma": {"desc": "merged", "page": "stronger", "merge": MERGE},
        "xl_weak": {"desc": "taught", "page": "stronger", "merge": MERGE},
    },
    "over": {"stronger": {"base": "xl", "selma": "xl_selma"}},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"over__stronger__selma": "xl"},
            "over.stronger: base is xl; it must be a row without expert and merge",
        ),
        (
            {"over__stronger__base": "xl_weak"},
            "over.stronger: base is xl_weak; it must be a row without expert",
        ),
        ({"over__stronger__selma": "selma"}, "over.stronger: selma is selma; allowed: xl, xl_selma, xl_weak"),
        ({"rows__xl__seeds": [42]}, "rows.xl: gains are over it, with every seed"),
    ],
)
def test_rows_that_a_pages_gains_are_over_must_be_its_own_and_whole(tmp_path, changes, said):
    with pytest.raises(UserError) as raised:
        load_table(write(tmp_path, **copy.deepcopy(OVER), **changes))
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_a_pages_gains_are_over_its_own_rows(tmp_path):
    table = load_table(write(tmp_path, **OVER))
    assert on_page(table, "stronger") == ["xl", "xl_selma", "xl_weak"]
    assert list(chosen(table, ["xl_weak"])) == ["xl", "xl_selma", "xl_weak"]
    assert list(chosen(table, ["delta"])) == ["base", "selma", "delta"]
    scores = {"base": 0.1, "selma": 0.2, "delta": 0.2, "xl": 0.6, "xl_selma": 0.7, "xl_weak": 0.5}
    found = {
        name: {
            seed: Measured(
                {p: 1.0 for p in POINTS},
                {p: {"a": s, "b": s} for p in POINTS},
                {p: Cost() for p in POINTS},
                {1.0: {"a": s}},
            )
            for seed in (42, 43, 44)
        }
        for name, s in scores.items()
    }
    rows = {row["row"]: row for row in table_rows(table, found)}
    assert rows["xl_weak"]["gain"] == pytest.approx(-0.1)
    assert rows["xl_weak"]["gain_over_selma"] == pytest.approx(-0.2)
    assert rows["delta"]["gain"] == pytest.approx(0.1)
    assert {row["row"]: row["gain"] for row in curve_rows(table, found)}["xl_selma"] == pytest.approx(0.1)


def test_runs_come_seed_by_seed_those_that_gains_are_over_first(tmp_path, monkeypatch):
    for file in ("params.yaml", "dvc.yaml", "experiments.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    path = write(tmp_path, rows={"early": {"desc": "", "set": "flips", "merge": MERGE}, **TABLE["rows"]})
    monkeypatch.chdir(tmp_path)
    table = load_table(path)
    runs = plan(table, load_sets(), table.rows, table.seeds)
    assert list(runs) == [(name, seed) for seed in (42, 43, 44) for name in ("upstream", "flips")]


@pytest.mark.parametrize(
    "options",
    [["--rows", "nobody"], ["--rows", "../x"], ["--seeds", "7"], ["--seeds", "43", "--rows", "delta"]],
)
def test_options_that_name_nothing_are_refused(tmp_path, monkeypatch, capsys, options):
    for file in ("params.yaml", "dvc.yaml", "experiments.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    write(tmp_path, rows__delta__seeds=[42])
    monkeypatch.chdir(tmp_path)
    assert ablations.main(options) == 2
    assert capsys.readouterr().err.startswith(f"error: {options[0]}: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--at", "-1"], "--at: -1; allowed: 0 to 1000"),
        (["--at", "nan"], "--at: nan; allowed: 0 to 1000"),
        (["--page", "longer", "--at", "1"], "leave out --rows, --seeds and --at"),
        (["--page", "nowhere"], "invalid choice: 'nowhere'"),
    ],
)
def test_options_that_cannot_be_are_refused(capsys, options, said):
    try:
        code = ablations.main(options)
    except SystemExit as left:
        code = left.code
    error = capsys.readouterr().err
    assert code == 2 and said in error and error.count("\n") == 1


def test_the_rows_that_gains_are_over_are_always_there(tmp_path):
    table = load_table(write(tmp_path))
    assert list(chosen(table, ["delta"])) == ["base", "selma", "delta"]
    assert list(chosen(table, ["base"])) == ["base", "selma"]
    assert list(chosen(table, None)) == ["base", "selma", "delta"]


# Claims ------------------------------------------------------------------------------------------


def measured(examined: np.ndarray, own: np.ndarray, guidance: float) -> Measured:
    def scores(values: np.ndarray) -> dict[str, float]:
        return {f"i{n}": float(value) for n, value in enumerate(values)}

    return Measured(
        guidance={EXAMINED: 1.35, BEST: guidance},
        scores={EXAMINED: scores(examined), BEST: scores(own)},
        cost={EXAMINED: Cost(10, 20, 30, 1.4), BEST: Cost(10, 40, 60, 2.6)},
        curve={1.35: scores(examined), 2.0: scores(own)},
    )


@pytest.fixture
def found():
    """Two seeds of three rows on 40 prompts: selma gains .1 at the examined point and nothing at its best."""
    random = np.random.default_rng(0)
    rows: dict[str, dict[int, Measured]] = {"base": {}, "selma": {}, "delta": {}}
    for seed in (42, 43):
        base, own = random.uniform(0.3, 0.7, 40), random.uniform(0.5, 0.9, 40)
        noise = random.normal(0, 0.01, (2, 40))
        rows["base"][seed] = measured(base, own, 2.0)
        rows["selma"][seed] = measured(base + 0.1 + noise[0], own + noise[1], 2.0 if seed == 42 else 1.35)
        rows["delta"][seed] = measured(base + 0.1 + noise[1], own, 2.0)
    return rows


def _mean_of(run: Measured, point: str) -> float:
    return float(np.mean(list(run.scores[point].values())))


def test_gains_are_paired_over_seeds_and_prompts(found):
    differences = np.array(
        [
            [
                found["selma"][s].scores[EXAMINED][i] - found["base"][s].scores[EXAMINED][i]
                for i in run.scores[EXAMINED]
            ]
            for s, run in found["base"].items()
        ]
    )
    mean, low, high = over_seeds(differences)
    here = gain(found, "selma", "base", EXAMINED)
    assert here == pytest.approx({"mean": mean, "low": low, "high": high}, abs=6e-5)
    assert here["low"] > 0 > gain(found, "selma", "base", BEST)["low"]
    free = gain(found, "base", "base", BEST, EXAMINED)
    levels = [np.mean([_mean_of(run, point) for run in found["base"].values()]) for point in (BEST, EXAMINED)]
    assert free["mean"] == pytest.approx(levels[0] - levels[1], abs=6e-5) and free["low"] > 0
    alone = {row: {42: runs[42]} for row, runs in found.items()}
    assert gain(alone, "selma", "base", EXAMINED)["mean"] == pytest.approx(differences[0].mean(), abs=6e-5)
    assert gain(found, "base", "base", BEST) == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_the_table_has_every_row_at_both_points(found, tmp_path):
    rows = table_rows(load_table(write(tmp_path)), found)
    assert [(row["row"], row["point"]) for row in rows] == [
        (name, point) for name in ("base", "selma", "delta") for point in (EXAMINED, BEST)
    ]
    assert all(tuple(row) == COLUMNS for row in rows)
    examined, own = rows[2], rows[3]
    assert examined["guidance"] == "1.35" and own["guidance"] == "2 1.35"
    assert examined["score"] == pytest.approx(rows[0]["score"] + examined["gain"], abs=2e-4)
    assert rows[4]["gain_over_selma"] == pytest.approx(rows[4]["gain"] - examined["gain"], abs=2e-4)
    assert (examined["steps"], examined["images"], own["judge_calls"], own["seconds"]) == (10, 20, 60, 3)
    assert examined["seeds"] == 2 and examined["paper"] == "DSG 77.7"
    assert all(0 <= row["score"] <= 1 for row in rows)


def test_the_curve_is_each_rows_dev_score_and_its_gain_at_the_same_guidance(found, tmp_path):
    rows = curve_rows(load_table(write(tmp_path)), found)
    assert [(row["row"], row["guidance"]) for row in rows[:4]] == [
        ("base", 1.35),
        ("base", 2.0),
        ("selma", 1.35),
        ("selma", 2.0),
    ]
    assert rows[0]["gain"] == rows[1]["gain"] == 0 and rows[2]["gain"] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("finds", "low", "high", "said"),
    [
        ("better", 0.01, 0.03, "agrees"),
        ("better", -0.01, 0.03, "cannot tell"),
        ("better", -0.03, -0.01, "disagrees"),
        ("worse", -0.03, -0.01, "agrees"),
        ("worse", -0.01, 0.03, "cannot tell"),
        ("worse", 0.01, 0.03, "disagrees"),
        ("better", 0.0, 0.02, "cannot tell"),
        ("worse", 0.0, 0.0, "cannot tell"),
    ],
)
def test_a_verdict_is_the_intervals(finds, low, high, said):
    assert verdict(Claim("base", finds, ""), {"mean": (low + high) / 2, "low": low, "high": high}) == said


def test_a_claim_becomes_a_sentence_at_each_point(found, tmp_path):
    table = load_table(write(tmp_path))
    text = sentence("selma", table.rows["selma"], found, EXAMINED)
    assert text.startswith("Better than its base. Here it is +") and text.endswith(
        "the embedded world agrees."
    )
    assert sentence("selma", table.rows["selma"], found, BEST).endswith("the embedded world cannot tell.")
    assert sentence("delta", table.rows["delta"], found, BEST) == ""
    assert against(table, found, "delta").count("no difference is shown") == 2


# Scores ------------------------------------------------------------------------------------------


def test_a_models_own_best_is_the_cheapest_of_equal_scales():
    assert best({1.5: {"a": 0.5, "b": 0.7}, 2.0: {"a": 0.7, "b": 0.5}, 3.0: {"a": 0.2, "b": 0.2}}) == 1.5
    assert best({1.5: {"a": 0.5}, 2.0: {"a": 0.7}}) == 2.0
    assert scales_of((1.5, 2.0), 1.35) == [1.35, 1.5, 2.0] and scales_of((1.35, 2.0), 1.35) == [1.35, 2.0]


@pytest.fixture
def examiner(make_project, monkeypatch):
    root = make_project("project", SETTINGS)
    for split in ("dev", "test"):
        write_split(
            root / "data/benchmarks/exam",
            split,
            [item(f"{split}-one", "circle"), item(f"{split}-two", "cross")],
        )
    put_lora(root / "models/merges/merged", root / "models/backbones/shapes", 1.0)
    monkeypatch.chdir(root)
    return Examiner(load_params(), Path("data/benchmarks/exam"), 2, Path("kept"))


def test_nothing_is_scored_twice_and_every_change_is_scored_anew(examiner, monkeypatch):
    models = [Drawn(None), Drawn(Path("models/merges/merged"))]
    points = [
        (model, split, scale, seed)
        for model in models
        for split in ("dev", "test")
        for scale in (1.5, 2.0)
        for seed in (1, 2)
    ]
    first = [examiner.scores(*point) for point in points]
    assert len(list(Path("kept").iterdir())) == len(points)
    assert all(
        set(scores) == {f"{point[1]}-one", f"{point[1]}-two"}
        for (scores, _), point in zip(first, points, strict=True)
    )
    monkeypatch.setattr(exam, "draw", lambda *_, **__: pytest.fail("drawn twice"))
    again = Examiner(examiner.params, Path("data/benchmarks/exam"), 2, Path("kept"))
    assert [again.scores(*point) for point in points] == first
    assert examiner.drawn("dev") == 2 and examiner.drawn("test") == 4
    assert examiner.questions("test") == 8


def test_what_is_drawn_or_judged_otherwise_is_scored_anew(examiner, monkeypatch):
    merged, settings, drawn = Drawn(Path("models/merges/merged")), examiner.params.evaluate, []
    real = exam.draw
    monkeypatch.setattr(exam, "draw", lambda *given, **named: drawn.append(1) or real(*given, **named))

    def draws(params: Params) -> int:
        before = len(drawn)
        Examiner(params, Path("data/benchmarks/exam"), 2, Path("kept")).scores(merged, "dev", 1.5, 1)
        return len(drawn) - before

    assert draws(examiner.params) == 1 and draws(examiner.params) == 0
    write_json(Path("models/merges/merged/made.json"), {"seconds": 1.0})
    assert draws(examiner.params) == 0, "what lies beside a LoRA is no part of it"
    for name, value in (("steps", 3), ("scheduler", "euler")):
        changed = replace(settings, drawing=replace(settings.drawing, **{name: value}))
        assert draws(replace(examiner.params, evaluate=changed)) == 1
    Path("selma/images/further.py").write_text("")
    assert draws(examiner.params) == 1, "code that draws"


def test_prompts_like_those_that_checkpoints_are_chosen_by_do_not_count():
    test = [item("a", "circle"), item("b", "square"), item("c", "cross")]
    dev = [replace(test[1], id="other"), replace(test[2], id="c2", prompt="an entirely different text")]
    assert far_from(test, dev) == ["a", "c"] and far_from(test, []) == ["a", "b", "c"]


def test_the_pictures_are_the_images_that_were_scored(examiner):
    items = examiner.items["test"]
    images = examiner.images(Drawn(None), items, 3)
    drawing = examiner.params.evaluate.drawing
    drawn = exam.draw(examiner.pipe(None), items, drawing, images=2, seed=3)
    first = [image for _, k, image in drawn if k == 0]
    assert [np.asarray(image).tolist() for image in images] == [np.asarray(image).tolist() for image in first]


# The page ----------------------------------------------------------------------------------------


def test_the_figure_of_rounds_shows_the_gains_of_each_round_and_group(found, tmp_path):
    table = load_table(write(tmp_path))
    figure = rounds.figure(table, found, ["selma", "delta"], EXAM)
    panels = {panel.get_title(): panel for panel in figure.axes if panel.get_visible()}
    assert list(panels) == [rounds.ALL, *learned.groups_of(EXAM)]
    for n, point in enumerate(POINTS):
        drawn = panels[rounds.ALL].containers[n]
        for r, name in enumerate(("selma", "delta"), 1):
            whole = gain(found, name, "base", point)
            x, y = (values[r] for values in drawn.lines[0].get_data())
            assert round(x) == r and y == pytest.approx(100 * whole["mean"])
            (low, high) = drawn.lines[2][0].get_segments()[r][:, 1]
            assert (low, high) == pytest.approx((100 * whole["low"], 100 * whole["high"]))
    groups = learned.groups_of(EXAM)
    for title, gains in zip(
        groups, learned.group_gains(table, found, "delta", groups, EXAMINED), strict=True
    ):
        assert panels[title].containers[0].lines[0].get_data()[1][2] == pytest.approx(100 * gains["mean"])
    rows = {
        name: replace(table.rows["selma"], merge=None, expert=name) for name in ("third", "first", "second")
    }
    assert rounds.chain_of(("base", "first", "second", "third"), rows) == ["first", "second", "third"]
    alone = {name: dict(list(own.items())[:1]) for name, own in found.items()}
    rounds.figure(table, alone, ["delta"], EXAM)  # with one seed there are no intervals


@pytest.mark.parametrize("name", PAGES)
def test_the_page_says_what_the_rows_say_and_is_the_same_bytes_again(found, name, tmp_path):
    table = load_table(write(tmp_path))
    facts = {
        "page": name,
        "again": True,
        "chosen": [],
        "rounds": [judge_lines([JUDGED, JUDGED])],
        "by_group": learned.by_group(table, found, EXAM),
        "prompts": 40,
        "left_out": 2,
        "dev_prompts": 10,
        "judge": "oracle",
        "drawing": "ddim, 12 steps, 64 px",
        "examined": "1.35",
        "machine": "a CPU",
    }
    docs = tmp_path / "docs"
    extra = {}
    if name != PAGES[0]:
        extra = learned.extra(table, found, {"delta": {1: CURVE}}, EXAM, docs / name)
        extra["differing"] = learned.differing(table, found, EXAM, 2)
        better = extra["differing"]
        assert better.row == "delta" and better.better + better.worse == 40
        assert [item.id for item in better.items] == ["i0", "i1", "i2", "i3"], (
            "two of each skill, in the exam's order"
        )
    page.write_page(docs, table, found, table_rows(table, found), facts, extra)
    text = (docs / f"{name}.md").read_text()
    assert "scores best on the dev split (1.35, 1.5, 2, 10 prompts" in text, "the examined one is among them"
    here = gain(found, "selma", "base", EXAMINED)
    assert f"**{100 * here['mean']:+.1f} [{100 * here['low']:+.1f}, {100 * here['high']:+.1f}]**" in text
    assert "| delta | the mean | 1.35 |" in text and "the embedded world agrees" in text
    files = {file: file.read_bytes() for file in docs.rglob("*") if file.is_file()}
    for figure in ("gains", "guidance", *(["curves"] if extra else [])):
        assert ElementTree.fromstring(files[docs / f"{name}/{figure}.svg"]).tag.endswith("svg")
    assert (
        "| delta | 4 | 1.500 → 1.200 | 0.0300 | clip 0.200 → 0.100, oracle 0.500 → 0.700 |" in text
    ) == bool(extra)
    lines = text.splitlines()
    head = lines.index("| row | objects | count |")
    assert lines[head + 1] == "|---|---|---|" and [
        line.split(" | ")[0] for line in lines[head + 2 : head + 4]
    ] == [
        "| selma",
        "| delta",
    ]
    head = lines.index("| drawn by | self | oracle |")
    assert lines[head + 2 : head + 4] == [
        "| base | 0.500 | 0.700 |",
        "| first | 0.600 (+0.100 [+0.100, +0.100]) | 0.650 (-0.050 [-0.050, -0.050]) |",
    ]
    page.write_page(docs, table, found, table_rows(table, found), facts, extra)
    assert files == {file: file.read_bytes() for file in docs.rglob("*") if file.is_file()}


JUDGED = {"base": {"self": 0.5, "oracle": 0.7}, "first": {"self": 0.6, "oracle": 0.65}}
EXAM = [Item(f"i{n}", f"prompt {n}", ("objects", "count")[n % 2], "shapes", ()) for n in range(40)]
CURVE = [
    {"round": 0.0, "images": 0.0, "seconds": 0.0, "dev": 0.5, "dev_oracle": 0.5, "dev_clip": 0.2},
    {"round": 1.0, "images": 8.0, "seconds": 2.0, "reward": 0.4, "diversity": 1.5, "distance": 0.01},
    {
        **{"round": 4.0, "images": 32.0, "seconds": 8.0, "reward": 0.6, "diversity": 1.2, "distance": 0.03},
        **{"dev": 0.7, "dev_oracle": 0.7, "dev_clip": 0.1},
    },
]


def test_what_judges_say_of_each_rounds_drawings_is_read_from_the_run(monkeypatch):
    """In the order of `draws`, by the model that drew; a draw of which nothing is picked is no round."""
    monkeypatch.chdir(ROOT)
    plain = copy.deepcopy(load_yaml(Path("params.yaml")))  # which keeps what it has read
    plain["rate"]["judges"] = ["oracle"]
    plain["draws"] = {
        name: {"weights": f"models/{weights}", "prompts": "data/questions", "images": 2, "first": 2 * number}
        for number, (name, weights) in enumerate(
            {"one": "experts/tags", "two": "experts/count", "three": "backbones/shapes"}.items()
        )
    }
    plain["picks"] = {name: {"source": f"drawn/{name}", "picker": "pairs"} for name in ("two", "three")}
    said = Said(
        {
            f"metrics/rate/drawn/{name}/oracle.json": {"mean": mean}
            for name, mean in (("two", 0.2), ("three", 0.3))
        }
    )
    params = build_params(plain, "here")
    assert list(judged_draws(said, params).items()) == [
        ("count", {"oracle": 0.2}),
        ("shapes", {"oracle": 0.3}),
    ]


def test_changes_have_intervals_over_seeds():
    other = {"base": {"self": 0.5, "oracle": 0.7}, "first": {"self": 0.8, "oracle": 0.75}}
    first, after = judge_lines([JUDGED, other])
    assert first["judges"] == {"self": "0.500", "oracle": "0.700"}
    half = 12.706204736432095 * 0.1  # t of one degree of freedom, times the standard error of 0.1 and 0.3
    assert after["judges"]["self"] == f"0.700 (+0.200 [{0.2 - half:+.3f}, {0.2 + half:+.3f}])"
    assert judge_lines([JUDGED])[1]["judges"]["self"] == "0.600 (+0.100)"


class Said:
    """A run's metrics."""

    def __init__(self, found: dict) -> None:
        self.metrics = found.__getitem__


def test_counts_that_no_training_prompt_asks_for_are_a_group_of_their_own():
    many = Question("1", "Are there exactly five circles?", ("yes", "no"), "yes", (), "count_many")
    few = Question("1", "Are there exactly two circles?", ("yes", "no"), "yes", (), "count")
    items = [
        Item("a", "five circles", "count", "shapes", (many,)),
        Item("b", "two circles", "count", "shapes", (few,)),
        Item("c", "a cross", "objects", "shapes", (few,)),
    ]
    assert learned.groups_of(items) == {"counts of four and five": ["a"], "count": ["b"], "objects": ["c"]}


def test_a_pages_run_keeps_the_lines_of_other_pages(tmp_path, capsys):
    """Also the base's: the gains of the rows beside it are over that one."""
    rows = {
        "base": {"desc": "b"},
        "selma": {"desc": "s", "expert": "x"},
        "nft": {"desc": "n", "expert": "y", "page": "selfimprove"},
    }
    file = write(tmp_path, rows=rows)
    table, out = load_table(file), tmp_path / "metrics.csv"
    out.write_text("row,score\nbase,0.5\nselma,0.6\nnft,0.1\ngone,0.3\n")
    lines = [{"row": name, "score": score} for name, score in (("base", 0.7), ("selma", 0.8), ("nft", 0.9))]
    assert [(row["row"], float(row["score"])) for row in beside(table, out, lines, "selfimprove")] == [
        ("base", 0.5),
        ("selma", 0.6),
        ("nft", 0.9),
    ]
    assert "gains over a base of 0.5, here 0.7" in capsys.readouterr().err
    assert beside(table, out, lines, None) == lines
    assert beside(table, tmp_path / "none.csv", lines, "selfimprove") == lines


def test_the_committed_page_and_figures_are_of_the_committed_numbers():
    with open(ROOT / "metrics/ablations.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    table = load_table(ROOT / "ablations.yaml")
    assert [row["row"] for row in rows[::2]] == list(table.rows)
    assert set(table.reading) == set(PAGES), "what was read in each page is said on it"
    for row in rows:
        text = (ROOT / f"docs/{table.rows[row['row']].page}.md").read_text()
        assert int(row["seeds"]) == len(table.rows[row["row"]].seeds or table.seeds)
        line = next(
            line
            for line in text.split(f"## {page.TITLES[row['point']]}")[1].splitlines()
            if line.startswith(f"| {row['row']} |")
        )
        assert f"| {100 * float(row['score']):.1f} |" in line
    assert load_yaml(ROOT / "params.yaml")["evaluate"]["drawing"]["guidance"] == float(rows[0]["guidance"])
