"""Skill files: what they ask the LLM for, and what a wrong one gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from selma.ground.errors import UserError
from selma.prompts.request import request_text
from selma.prompts.skills import load_skill
from selma.runtime.params import load_params

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "data/skills"

GOOD = """\
description: Prompts about numbers.
rules: [State a number., Be brief.]
max_words: 8
seeds: [two red circles, one blue square, three green crosses]
"""


def write(folder: Path, text: str, file: str = "count.yaml") -> Path:
    (folder / file).write_text(text)
    return folder


@pytest.mark.parametrize("name", ["objects", "paragraph", "tags", "count", "counterfactual"])
@pytest.mark.parametrize("world", ["shapes", "photo"])
def test_shipped_skills(world, name):
    skill = load_skill(SHIPPED / world, name)
    assert skill.max_words == (50 if name in ("paragraph", "tags") else 30)
    assert 3 <= len(skill.rules) <= 5
    assert len(skill.seeds) == 3


@pytest.mark.parametrize("name", ["relations", "sizes"])
def test_skills_of_the_set_with_more_than_five(name):
    skill = load_skill(SHIPPED / "shapes", name)
    assert skill.max_words == 30 and 3 <= len(skill.rules) <= 5


def test_every_skill_in_params_has_a_file():
    params = load_params(ROOT / "params.yaml")
    for name in params.skills:
        assert load_skill(ROOT / params.prompts.skills, name).name == name


def test_request_holds_everything_the_llm_needs(tmp_path):
    skill = load_skill(write(tmp_path, GOOD), "count")
    request = request_text(skill, ["a cat", "a dog", "a cow"], 20)
    for part in (skill.description, *skill.rules, "8 words", "1. a cat\n2. a dog\n3. a cow"):
        assert part in request
    assert "20 more prompts" in request
    assert "starting at 4" in request
    assert not any(seed in request for seed in skill.seeds)  # examples are the caller's choice
    as_json = request_text(skill, ["a cat", "a dog", "a cow"], 20, "json")
    assert '{"prompts": [' in as_json and "numbered list" not in as_json
    assert as_json.split("Reply with")[0] == request.split("Reply with")[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (", three green crosses]", "]", "exactly 3"),
        ("three green crosses]", "three green crosses, a fourth]", "exactly 3"),
        ("one blue square", "two red circles", "twice"),
        ("max_words: 8", "max_words: 0", "max_words"),
        ("max_words: 8", "max_words: many", "max_words"),
        ("max_words: 8", "max_words: 2", "max_words allows 2"),
        ("max_words: 8\n", "", "missing key max_words"),
        ("max_words: 8", "max_words: 8\nmax_length: 9", "unknown key max_length"),
        ("rules: [State a number., Be brief.]", "rules: []", "rules"),
        ("rules: [State a number., Be brief.]", "rules: Be brief.", "rules"),
        ("Be brief.", "'Be: brief': yes", "rules"),
        ("Prompts about numbers.", "''", "description"),
        ("Prompts about numbers.", "'...'", "description"),
        ("one blue square", '"one \\ud83d square"', "count.yaml"),
        ("one blue square", '"one \\0 square"', "control characters"),
        ("Be brief.", '"Be \\e[31mbrief."', "control characters"),
        ("one blue square", "[a]", "seeds[1]"),
        ("max_words: 8", "max_words: .inf", "max_words is inf"),
        ("max_words: 8", f"max_words: {'9' * 5000}", "YAML"),
        ("description:", "max_words: 9\ndescription:", "max_words"),
        ("Be brief.]", "Be brief.", "YAML"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, old, new, message):
    assert old in GOOD
    write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UserError, match=r"count\.yaml") as error:
        load_skill(tmp_path, "count")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_skill_lists_those_there_are(tmp_path):
    write(tmp_path, GOOD)
    with pytest.raises(UserError, match=r"cuont is unknown.*known skills: count"):
        load_skill(tmp_path, "cuont")
    with pytest.raises(UserError, match="known skills: none"):
        load_skill(tmp_path / "nowhere", "count")


@pytest.mark.parametrize("name", ["../count", "a/b", "", "."])
def test_a_name_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(UserError, match="must be a name"):
        load_skill(write(tmp_path, GOOD), name)


@pytest.mark.parametrize("twin", ["count.yml", "Count.yaml"])
def test_two_skills_of_one_name(tmp_path, twin):
    write(tmp_path, GOOD)
    write(tmp_path, GOOD, twin)
    with pytest.raises(UserError, match="have the same name"):
        load_skill(tmp_path, "count")
