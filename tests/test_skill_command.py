"""`python -m selma.skill`: three rows and a file, comments kept, in every profile; a name that is taken is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from selma import profile, skill
from selma.prompts.skills import load_skill
from selma.runtime.dvcfile import load_stages
from selma.runtime.params import load_params

ROOT = Path(__file__).parents[1]
SEEDS = ["a cat asleep on a chair", "two dogs in the snow", "an owl at night"]
OPTIONS = [
    "--description",
    "Animals.",
    "--rule",
    "Name the animal.",
    *(x for s in SEEDS for x in ("--seed", s)),
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    shutil.copytree(ROOT / "data/skills", tmp_path / "data/skills")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["skill", *arguments])
    return skill.main()


def test_three_rows_and_a_file_and_nothing_else_changes(project, monkeypatch, capsys):
    before = (project / "params.yaml").read_text().splitlines()
    assert run(monkeypatch, "animals", *OPTIONS) == 0
    after = (project / "params.yaml").read_text().splitlines()
    assert [line for line in after if line not in before] == [
        "skills: [objects, paragraph, tags, count, counterfactual, animals]",
        "  animals: {data: data/images/animals, objective: denoising}",
        "  animals: {weights: models/experts/animals, guidance: cfg}",
    ]
    assert [line for line in before if line not in after] == [
        "skills: [objects, paragraph, tags, count, counterfactual]"
    ]
    assert load_skill("data/skills/shapes", "animals").seeds == tuple(SEEDS)
    params = load_params()
    names = list(params.experts)
    assert names.index("animals") == names.index("counterfactual") + 1
    assert {"images@animals", "expert@animals", "select@animals", "sample@animals-shapes"} <= set(
        load_stages(project)
    )
    printed = capsys.readouterr()
    assert "data/skills/photo/animals.yaml" in printed.out and not printed.err


def test_a_skills_model_is_guided_as_the_first_one(project, monkeypatch):
    text = (project / "params.yaml").read_text()
    row = "  base: {weights: models/backbones/shapes, guidance: cfg}"
    mine = row.replace("cfg", "syngen, options: {step: 0.5, parser: rules}")
    assert text.count(row) == 1
    (project / "params.yaml").write_text(text.replace(row, mine))
    assert run(monkeypatch, "animals", *OPTIONS) == 0
    added = load_params().models["animals"]
    assert (added.guidance, added.options) == ("syngen", {"step": 0.5, "parser": "rules"})


def test_the_skill_stays_in_every_profile(project, monkeypatch):
    run(monkeypatch, "animals", *OPTIONS)
    added = (project / "params.yaml").read_bytes()
    for path in (project / "profiles").glob("*.yaml"):
        profile.apply(path.stem, project)
        params = load_params()
        assert "animals" in params.skills and params.experts["animals"].data == "data/images/animals"
    profile.apply("shapes", project)
    assert (project / "params.yaml").read_bytes() == added


def test_lists_and_rows_in_other_styles_are_added_to_as_well(project, monkeypatch):
    path = project / "params.yaml"
    text = path.read_text().replace(
        "skills: [objects, paragraph, tags, count, counterfactual]",
        "skills:\n  - objects\n  - paragraph\n  - tags\n  - count\n  - counterfactual    # last",
    )
    row = "  counterfactual: {data: data/images/counterfactual, objective: denoising}\n"
    block = (
        "  counterfactual:\n    data: data/images/counterfactual\n    objective: denoising    # of SELMA\n"
    )
    assert row in text
    path.write_text(text.replace(row, block))
    assert run(monkeypatch, "animals", *OPTIONS) == 0
    assert load_params().skills[-1] == "animals" and "animals" in load_params().experts
    assert (
        "counterfactual    # last\n" in path.read_text()
        and "objective: denoising    # of SELMA\n" in path.read_text()
    )


def test_a_skill_file_that_is_there_is_used(project, monkeypatch):
    shutil.copy("data/skills/shapes/count.yaml", "data/skills/shapes/more.yaml")
    assert run(monkeypatch, "more") == 0
    assert "more" in load_params().skills


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["count", *OPTIONS], "count is taken: `skills` in params.yaml already has it"),
        (["single", *OPTIONS], "single is taken: `experts` in params.yaml already has it"),
        (["merged", *OPTIONS], "merged is taken: `models` in params.yaml already has it"),
        (["a/b", *OPTIONS], "it must be a name of letters, digits"),
        (["a.b", *OPTIONS], "it must be a name of letters, digits"),  # DVC would read a step of a dotted key
        (["123", *OPTIONS], "it must be a name of letters, digits"),
        (["animals"], "skill animals is unknown: data/skills/shapes/animals.yaml does not exist"),
        (["animals", *OPTIONS[:-2]], "seeds holds 2 prompts; it must hold exactly 3"),
        (["animals", *OPTIONS, "--max-words", "3"], "has 6 words; max_words allows 3"),
        (["old", *OPTIONS], "data/skills/shapes/old.yaml exists; leave out --description"),
    ],
)
def test_what_cannot_be_is_one_line_and_changes_nothing(project, monkeypatch, capsys, arguments, says):
    shutil.copy("data/skills/shapes/count.yaml", "data/skills/shapes/old.yaml")
    before = {path: path.read_bytes() for path in project.rglob("*.yaml")}
    assert run(monkeypatch, *arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1 and says in line
    assert {path: path.read_bytes() for path in project.rglob("*.yaml")} == before


def test_a_policys_name_is_taken_and_its_rows_stay(project, monkeypatch, capsys):
    """A policy writes models/experts/<name>, as the skill's expert would."""
    path = project / "params.yaml"
    row = "{algorithm: nft, start: models/backbones/shapes, prompts: data/questions, rewards: {oracle: 1}, images: 576}"
    path.write_text(path.read_text().replace("policies: {}", f"policies:\n  learned: {row}"))
    assert run(monkeypatch, "learned", *OPTIONS) == 2
    assert "learned is taken: `policies` in params.yaml already has it" in capsys.readouterr().err
    assert run(monkeypatch, "animals", *OPTIONS) == 0
    assert "animals" in load_params().experts and list(load_params().policies) == ["learned"]


def test_rows_in_braces_are_refused_in_one_line(project, monkeypatch, capsys):
    path = project / "params.yaml"
    section = path.read_text().split("merges:")[0].split("experts:\n")[1].split("#")[0]
    path.write_text(
        path.read_text().replace(
            f"experts:\n{section}",
            "experts: {" + ",".join(line.strip() for line in section.splitlines() if line.strip()) + "}\n",
        )
    )
    before = path.read_bytes()
    assert run(monkeypatch, "animals", *OPTIONS) == 2
    assert "`experts` is written in braces" in capsys.readouterr().err
    assert path.read_bytes() == before and not Path("data/skills/shapes/animals.yaml").exists()
