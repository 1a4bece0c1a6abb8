"""What `dvc repro` would do is said before it does it: in a fresh clone, for every profile, without doing anything."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from selma import plan as command
from selma import profile
from selma.ground.errors import UserError
from selma.ground.files import sha256_file, write_json
from selma.planning import plan, rates, words
from selma.planning.exams import PUBLISHED
from selma.planning.measured import HERE
from selma.planning.plan import Plan
from selma.runtime import timing

ROOT = Path(__file__).parents[1]
SKILLS = ("objects", "paragraph", "tags", "count", "counterfactual")
EXPERTS = (*SKILLS, "single")


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone: no data and no models, nothing pulled, nothing measured."""
    folder = tmp_path_factory.mktemp("plan") / "clone"
    subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, folder], check=True)
    return folder


@pytest.fixture
def clone(cloned: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The clone as it was cloned."""
    subprocess.run(["git", "checkout", "--quiet", "."], cwd=cloned, check=True)
    shutil.rmtree(cloned / ".work", ignore_errors=True)
    if (ROOT / rates.TABLE).is_file():
        shutil.copy(ROOT / rates.TABLE, cloned / rates.TABLE)
    monkeypatch.chdir(cloned)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return cloned


def edit(root: Path, old: str, new: str, file: str = "params.yaml") -> None:
    text = (root / file).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (root / file).write_text(text.replace(old, new), encoding="utf-8")


def names(made: Plan) -> set[str]:
    return {line.name for line in made.lines}


def listing(root: Path) -> dict[str, str]:
    """Every file but git's and DVC's own, with its hash."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    paths = {path.relative_to(root): path for path in files}
    return {
        path.as_posix(): sha256_file(file)
        for path, file in paths.items()
        if path.parts[0] != ".git" and path.parts[:2] != (".dvc", "tmp")
    }


# Which stages ------------------------------------------------------------------------------------


def test_a_fresh_clone_is_as_committed_and_nothing_is_written(clone: Path) -> None:
    before = listing(clone)
    made = plan.make(clone)
    assert not made.lines
    assert {"images@count", "expert@single", "sample@merged-shapes", "pretrain@shapes"} <= set(made.pull)
    said = words.text(made)
    assert "nothing to do" in said and "`dvc pull -r starter` brings them" in said
    words.text(plan.make(clone, whole=True))
    assert listing(clone) == before


def after(experts: tuple[str, ...]) -> set[str]:
    """What runs after experts were trained again."""
    drawn = {
        f"{kind}@{name}{'' if kind == 'model' else '-shapes'}"
        for kind in ("model", "sample", "answer")
        for name in (*experts, "merged")
    }
    return {f"select@{name}" for name in experts} | drawn | {"merge@merged", "evaluate", "report"}


@pytest.mark.parametrize(
    ("old", "new", "runs"),
    [
        (
            "{operator: factor_mean,",
            "{operator: delta_mean,",
            {"merge@merged"} | (after(()) - {"merge@merged"}),
        ),
        ("  steps: 300\n", "  steps: 600\n", {f"expert@{name}" for name in EXPERTS} | after(EXPERTS)),
        (
            "count: {data: data/images/count, objective: denoising}",
            "count: {data: data/images/count, objective: denoising, rank: 8}",
            {"expert@count"} | after(("count",)),
        ),
        ("    guidance: 1.35\n", "    guidance: 2.0\n", None),
        ("  concurrency: 4", "  concurrency: 8", set()),  # changes speed, never results
        ("  vae_steps: 2200\n", "  vae_steps: 2201\n", set()),  # of a frozen stage
    ],
    ids=["operator", "steps", "row", "guidance", "speed", "frozen"],
)
def test_an_edit_runs_what_depends_on_it_and_no_more(
    clone: Path, old: str, new: str, runs: set[str] | None
) -> None:
    edit(clone, old, new)
    made = names(plan.make(clone))
    if runs is None:
        assert {name.partition("@")[0] for name in made} == {
            *("select", "merge", "model", "sample", "answer", "evaluate", "report")
        }
        assert "sample@base-shapes" in made and "model@base" not in made
    else:
        assert made == runs


def test_an_edit_of_code_runs_what_runs_it(clone: Path) -> None:
    file = clone / "selma/variants/objectives/denoising.py"
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    made = plan.make(clone)
    assert names(made) == {f"expert@{name}" for name in EXPERTS} | after(EXPERTS)
    assert {line.why for line in made.lines if line.name.startswith("expert@")} == {
        "selma/variants/objectives/denoising.py"
    }
    assert "selma/variants/objectives/denoising.py (expert@objects and 5 more)" in words.text(made)
    assert "images@count" in made.pull and "expert@count" not in made.pull


def test_the_reasons_are_those_that_dvc_itself_has(clone: Path) -> None:
    """But for what is not here: DVC would make it, where a pull brings it."""
    from dvc.repo import Repo

    edit(clone, "  steps: 300\n", "  steps: 600\n")
    for file in ("selma/scoring/scores.py", "data/skills/shapes/count.yaml"):
        (clone / file).write_text((clone / file).read_text(encoding="utf-8") + "\n# more\n", encoding="utf-8")
    with Repo(str(clone)) as repo:
        status = repo.status()

    def here(path: str) -> bool:
        return path.startswith("data/skills/") or not path.startswith(("data/", "models/"))

    theirs = {
        name
        for name, entries in status.items()
        for entry in entries
        if not isinstance(entry, str) and any(here(path) for path in entry.get("changed deps", ()))
    }
    assert {"filter@count", "expert@tags", "select@tags", "evaluate"} <= theirs
    assert {line.name for line in plan.make(clone).lines if line.why} == theirs


def test_what_lies_here_edited_runs_again_and_what_is_missing_from_git_too(clone: Path) -> None:
    (clone / "metrics/merge/merged.json").unlink()
    made = plan.make(clone)
    assert names(made) == {"merge@merged"} | after(()) - {"merge@merged"}


@pytest.mark.parametrize("name", ["sd14", "sd2", "sdxl"])
def test_every_profile_is_counted_before_anything_was_downloaded(clone: Path, name: str) -> None:
    profile.apply(name, clone)
    made = plan.make(clone)
    found = made.by_kind()
    prompts = sum(PUBLISHED[source].prompts for source in ("dsg", "tifa")) + 4 * PUBLISHED["hps"].prompts
    assert prompts == 1060 + 4081 + 3200
    assert found["images"].images == 5 * 1000
    assert found["sample"].images == 8 * prompts
    assert found["answer"].questions == 8 * (8182 + 25829)
    assert found["prefer"].questions == 3 * 8 * prompts
    assert found["prompts"].requests == 5 * 75
    assert found["questions"].requests == 0
    steps, every = (10_000, 1000) if name == "sdxl" else (5000, 1000)
    assert found["expert"].steps == 6 * steps
    assert found["select"].images == steps // every * (
        5 * 50 + 250
    )  # `single` is scored on all skills' prompts
    assert not any(line.work.unknown for line in made.lines)
    assert "pretrain@shapes" not in names(made)


# How much ----------------------------------------------------------------------------------------


def test_all_counts_what_the_committed_run_made(clone: Path) -> None:
    made = plan.make(clone, whole=True)
    works = {line.name: line.work for line in made.lines}
    assert len(works) == made.known and not made.pull
    for skill in SKILLS:
        metrics = {
            kind: json.loads((clone / f"metrics/{kind}/{skill}.json").read_text())
            for kind in ("prompts", "filter", "questions")
        }
        assert works[f"prompts@{skill}"].requests == metrics["prompts"]["requests"]
        assert works[f"images@{skill}"].images == metrics["filter"]["kept"]
        assert works[f"questions@{skill}"].requests == metrics["questions"]["requests"]
    for name in EXPERTS:
        with open(clone / f"metrics/loss/{name}.csv") as file:
            assert works[f"expert@{name}"].steps == max(int(row["step"]) for row in csv.DictReader(file))
        chosen = json.loads((clone / f"metrics/select/{name}.json").read_text())
        assert works[f"select@{name}"].images == len(chosen["scores"]) * 200


def test_what_lies_here_has_as_many_rows_as_are_planned() -> None:
    samples, answers = (
        ROOT / "data/samples/base/shapes/metadata.jsonl",
        ROOT / "data/answers/base/shapes.jsonl",
    )
    if not (samples.is_file() and answers.is_file()):
        pytest.skip("`dvc pull -r starter` brings them")
    script = "import sys; from selma.plan import main; sys.exit(main(['--all', '--json']))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    stages = {stage["name"]: stage for stage in json.loads(done.stdout)["stages"]}

    def lines(file: Path) -> int:
        return len(file.read_text(encoding="utf-8").splitlines())

    assert stages["sample@base-shapes"]["images"] == lines(samples)
    assert stages["answer@base-shapes"]["questions"] == lines(answers)
    for skill in SKILLS:
        assert stages[f"images@{skill}"]["images"] == lines(ROOT / f"data/images/{skill}/metadata.jsonl")


def test_a_policy_is_counted_by_its_rounds_and_examinations(clone: Path) -> None:
    edit(
        clone,
        "\npolicies: {}",
        "\npolicies: {nft: {algorithm: nft, start: models/backbones/shapes, prompts: data/questions, "
        "rewards: {oracle: 1.0}, images: 5760}}",
    )
    (line,) = (line for line in plan.make(clone).lines if line.kind == "policy")
    rounds, examinations = 5760 // (24 * 8), 1 + 3
    assert line.work.images == 5760 + examinations * 200
    assert line.work.steps == rounds * 3 * 2
    asked = json.loads((clone / "metrics/questions/count.json").read_text())
    assert line.work.questions > 5760 * asked["questions"] / asked["prompts"] / 2


def test_rows_that_the_default_run_has_none_of_are_counted(clone: Path) -> None:
    edit(clone, "\nrenders: {}", "\nrenders: {real: {skills: [objects, count], images: 10, seed: 1}}")
    edit(
        clone,
        "\ndraws: {}",
        "\ndraws: {again: {weights: models/experts/single, prompts: data/rendered/real, images: 3}}",
    )
    edit(clone, "\nmixtures: {}", "\nmixtures: {moe: {objective: moe_gates, experts: null, steps: 450}}")
    edit(
        clone,
        "  merged: {operator: factor_mean, experts: null}",
        "  merged: {operator: searched, experts: null}",
    )
    edit(clone, "  dev: 0 ", "  dev: 20 ")
    works = {line.name: line.work for line in plan.make(clone).lines}
    assert works["render@real"].images == 20 and works["draw@again"].images == 60
    assert works["mixture@moe"].steps == 450
    assert works["select_mixture@moe"].images == 3 * 5 * 20
    assert works["select@count"].images == 2 * 20 and works["select@single"].images == 2 * 100
    assert works["merge@merged"].images == 30 * 100 == works["merge@merged"].questions


def test_draws_ratings_and_picks_are_counted(clone: Path) -> None:
    edit(
        clone,
        "\ndraws: {}",
        "\ndraws: {again: {weights: models/experts/single, prompts: data/questions, images: 2}}",
    )
    edit(clone, "\nrate:\n  judges: []", "\nrate:\n  judges: [oracle, clip]")
    works = {line.name: line.work for line in plan.make(clone).lines}
    asked = sum(
        json.loads((clone / f"metrics/questions/{skill}.json").read_text())["questions"] for skill in SKILLS
    )
    assert works["draw@again"].images == 2 * 1000
    assert works["rate_drawn@oracle-again"].questions == 2 * asked
    assert works["rate_drawn@clip-again"].questions == 2 * 1000
    assert sum(works[f"rate@oracle-{skill}"].questions for skill in SKILLS) == asked


def test_a_benchmark_of_unknown_size_is_named_and_not_counted(clone: Path) -> None:
    edit(clone, "  benchmarks: {} ", "  benchmarks: {mine: {source: csv, path: /nowhere/mine.csv}} ")
    edit(clone, "  benchmarks: [shapes] ", "  benchmarks: [shapes, mine] ")
    made = plan.make(clone)
    assert {line.work.images for line in made.lines if line.name == "sample@base-mine"} == {0}
    assert "Not known, and not counted: the prompts of mine, the questions of mine." in words.text(made)


# How long ----------------------------------------------------------------------------------------


def measure(
    root: Path, name: str, seconds: dict[str, float], counts: dict[str, timing.Count], ended: float
) -> None:
    """A stage's times, as it leaves them."""
    settings = root / timing.SETTINGS / "0123.yaml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    if not settings.exists():
        shutil.copy(root / "params.yaml", settings)
    phases = dict.fromkeys(timing.PHASES, 0.0) | seconds
    record = {"stage": name, "warm": False, "seconds": phases, "counts": counts, "params": settings.name}
    write_json(timing.file_of(root, name), record)
    os.utime(timing.file_of(root, name), (ended, ended))


def test_this_machines_own_rates_come_first(clone: Path) -> None:
    table = {"machine": "another", "source": "x", "rates": []}
    rates.save(clone / rates.TABLE, table, {})
    for number, name in enumerate(EXPERTS):  # 30 s of steps, 4 s of all else; DVC takes 2 s between two
        steps = {"steps": {"number": 300, "seconds": 30.0}}
        measure(clone, f"expert@{name}", {"start-up": 3.0, "work": 31.0}, steps, 1e9 + 36 * number)
    edit(clone, "  steps: 300\n", "  steps: 600\n")
    edit(clone, "  batch: 32\n", "  batch: 64\n")
    made = plan.make(clone)
    (line,) = (line for line in made.lines if line.name == "expert@count")
    assert line.estimate.machine == HERE
    assert line.estimate.seconds == pytest.approx(4 + 600 * 0.1 * 2)
    assert made.between == pytest.approx(2.0, abs=0.01)
    assert made.by_kind()["expert"].seconds == pytest.approx(6 * (124 + 2), rel=1e-3)


def test_another_machines_rates_are_marked_and_nothing_is_invented(clone: Path) -> None:
    by = "shapes, 64 px, float32"
    rate = {"kind": "drawing", "by": by, "fixed": 1.0, "unit": "images", "each": 0.02, "of": 24}
    table = {"machine": "a big one", "source": "x", "rates": [rate]}
    write_json(clone / rates.TABLE, {"machines": [table], "sizes": []})
    edit(clone, "    guidance: 1.35\n", "    guidance: 1.0\n")  # one pass instead of two
    made = plan.make(clone)
    found = {line.name: line.estimate for line in made.lines}
    assert found["sample@base-shapes"].seconds == pytest.approx(1 + 300 * 0.02 / 2)
    assert found["select@count"].without == "judging"
    assert found["answer@base-shapes"].seconds is None
    said = words.text(made)
    assert "rates of a big one; this machine has not run that yet" in said
    assert "Not timed, and left out: " in said and "judging in select" in said
    edit(clone, "    resolution: 64\n  bootstrap", "    resolution: 128\n  bootstrap")
    assert all(line.estimate.seconds is None for line in plan.make(clone).lines)


def test_without_a_table_nothing_is_timed(clone: Path) -> None:
    (clone / rates.TABLE).unlink(missing_ok=True)
    made = plan.make(clone, whole=True)
    assert made.sum().timed == 0 and "not timed" in words.text(made)


def test_sdxl_has_the_hours_that_were_measured(clone: Path) -> None:
    profile.apply("sdxl", clone)
    found = plan.make(clone).by_kind()
    assert found["expert"].seconds == pytest.approx(6 * 10_000 * 7.622, rel=0.01)
    assert found["images"].seconds == pytest.approx(5000 * 2.212, rel=0.01)
    text = (clone / "params.yaml").read_text(encoding="utf-8").split("\npolicy:")[0]
    edit(clone, text, text.replace("gradient_checkpointing: false", "gradient_checkpointing: true"))
    assert plan.make(clone).by_kind()["expert"].seconds == pytest.approx(6 * 10_000 * 13.913, rel=0.01)


def test_rates_are_saved_and_others_stay(clone: Path) -> None:
    measure(clone, "pool", {"work": 0.5}, {}, 1e9)
    measure(
        clone,
        "images@count",
        {"start-up": 2.0, "work": 6.0},
        {"images": {"number": 200, "seconds": 4.0}},
        1e9,
    )
    before = rates.read(clone / rates.TABLE)
    assert plan.save(clone, clone / rates.TABLE, "mine") == 3  # and drawing alone
    table = rates.read(clone / rates.TABLE)
    assert [one["machine"] for one in table["machines"]] == [
        "mine",
        *(one["machine"] for one in before["machines"]),
    ]
    found = {rate["kind"]: rate for rate in table["machines"][0]["rates"]}
    assert found["pool"] == {"kind": "pool", "by": "", "fixed": 0.5}
    assert (found["images"]["each"], found["images"]["fixed"], found["images"]["of"]) == (0.02, 4.0, 24)
    sizes = {size["what"]: size["bytes"] for size in table["sizes"]}
    assert 1000 < sizes["images, shapes, 64 px"] < 3 * 64 * 64
    plan.save(clone, clone / rates.TABLE, "mine")
    assert len(rates.read(clone / rates.TABLE)["machines"]) == len(table["machines"])


def test_settings_that_are_none_any_more_give_no_rate(clone: Path) -> None:
    measure(clone, "pool", {"work": 0.5}, {}, 1e9)
    (clone / timing.SETTINGS / "0123.yaml").write_text("skills: [\n")
    (clone / rates.TABLE).unlink(missing_ok=True)
    assert plan.make(clone, whole=True).sum().timed == 0


# The command -------------------------------------------------------------------------------------


def test_the_table_and_its_json_say_the_same(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(clone, "  steps: 300\n", "  steps: 6000\n")
    assert command.main([]) == 0
    said = capsys.readouterr()
    assert said.err == "" and "36,000" in said.out and "would run at most 36 of 63 stages" in said.out
    assert command.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["steps"] == 36_000 == sum(stage["steps"] for stage in found["stages"])
    assert len(found["stages"]) == found["total"]["stages"] == 36
    assert "images@count" in found["as_committed"]


@pytest.mark.parametrize("given", [["--al1"], ["x"], ["--save"], ["--json", "--save", "x"]])
def test_wrong_arguments_are_one_line(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(given)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("params.yaml", "seed: x\n", "params.yaml: "),
        ("dvc.yaml", "stages: [\n", "dvc.yaml, line 2: "),
        ("dvc.lock", "stages: [\n", "DVC: "),
        ("bench/rates.json", "{}", "rates.json: "),
    ],
)
def test_bad_files_are_one_line(
    clone: Path, capsys: pytest.CaptureFixture[str], file: str, text: str, said: str
) -> None:
    (clone / file).write_text(text)
    assert command.main([]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and said in err and len(err.splitlines()) == 1


def test_saving_needs_a_run(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--save", "out.json"]) == 2
    assert "no stage has run here" in capsys.readouterr().err
    assert not (clone / "out.json").exists()


def test_a_folder_that_is_no_repository_of_dvcs_is_said(clone: Path, tmp_path: Path) -> None:
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(clone / file, tmp_path)
    with pytest.raises(UserError, match="DVC: "):
        plan.make(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (59, "59 s"), (200, "3 min"), (9000, "2.5 h"), (76_000, "21 h")]
)
def test_durations(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(("number", "said"), [(10, "0 MB"), (3.3e6, "3.3 MB"), (1.2e12, "1,200.0 GB")])
def test_sizes(number: float, said: str) -> None:
    assert words.size(number) == said
