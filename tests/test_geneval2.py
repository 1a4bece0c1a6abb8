"""GenEval 2: its data as items, and Soft-TIFA by hand, against statistics' own means, and on published scores."""

from __future__ import annotations

import json
from statistics import fmean, geometric_mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selma.ground.errors import UserError
from selma.ground.items import load_split, write_split
from selma.scoring import soft_tifa
from selma.variants.benchmarks import geneval2
from tests.test_geneval import write

COUNT, THERE = "How many {} are in the image?", "Are there any {} in the image?"


def prompt(text, atoms, *questions):
    """A line of data, of (question, answer, skill)."""
    pairs = [[question, answer] for question, answer, _ in questions]
    return {
        "prompt": text,
        "atom_count": atoms,
        "vqa_list": pairs,
        "skills": [skill for *_, skill in questions],
    }


ROWS = [
    prompt(
        "a red hen and an owl",
        3,
        (COUNT.format("hens"), "one", "count"),
        ("Is the hen red?", "Yes", "attribute"),
        (THERE.format("hens"), "Yes", "object"),
        (COUNT.format("owls"), "one", "count"),
        (THERE.format("owls"), "Yes", "object"),
    ),
    prompt(
        "five blue cups",
        3,
        (COUNT.format("cups"), "five", "count"),
        ("Are the cups blue?", "Yes", "attribute"),
        (THERE.format("cups"), "Yes", "object"),
    ),
    prompt(
        "four stone owls fly", 4, (COUNT.format("owls"), "four", "count"), ("Do they fly?", "Yes", "verb")
    ),
]


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "data.jsonl", ROWS)


def test_a_line_of_data_becomes_an_item(data, tmp_path):
    items = geneval2.read({"data": data})
    assert [(item.id, item.prompt, item.skill) for item in items][2] == (
        "geneval2-00002",
        "four stone owls fly",
        "atoms-4",
    )
    first, second, *_ = items[1].questions
    assert (first.answer, first.category, first.choices) == ("five", "count", geneval2.NUMBERS)
    assert (second.answer, second.category, second.choices) == ("yes", "attribute", ("yes", "no"))
    write_split(tmp_path, "test", items)
    assert load_split(tmp_path, "test") == items


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"skills": ["count"]}, "has 3 questions and 1 skills"),
        ({"vqa_list": [["Is it?"]], "skills": ["object"]}, "vqa_list[0]"),
        (
            {"vqa_list": [["How many?", "many"]], "skills": ["count"]},
            "has the answer 'many'; allowed: zero, one",
        ),
        ({"vqa_list": [["Is it?", "one"]], "skills": ["count"]}, "has the answer 'one'; allowed: yes, no"),
        ({"atom_count": 0}, "atom_count is 0"),
        ({"prompt": ""}, "prompt is ''"),
    ],
)
def test_a_broken_line_is_named(tmp_path, changes, named):
    path = write(tmp_path / "d.jsonl", [ROWS[0], {**ROWS[1], **changes}])
    with pytest.raises(UserError) as error:
        geneval2.read({"data": path})
    assert f"{path}, line 2: " in str(error.value) and named in str(error.value)


# Soft-TIFA -------------------------------------------------------------------------------------


def test_spellings_are_the_official_ones():
    assert soft_tifa.spellings("How many owls?", "four") == ("four", "Four", " four", " Four", "4", " 4")
    assert set(soft_tifa.spellings("Is it red?", "Yes")) == {"Yes", "yes", " Yes", " yes"}


def test_a_token_that_begins_two_spellings_counts_twice_as_the_official_script_counts_it_or_once():
    first = [(7, 0.5), (8, 0.25), (7, 0.5), (9, 0.125)]
    assert soft_tifa.mass(first) == 0.875
    assert soft_tifa.mass(first, dedupe=False) == 1.375


@given(st.data())
def test_deduplicated_sums_are_probabilities_and_never_more_than_literal_ones(data):
    weights = data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=8))
    total = sum(weights) or 1.0
    tokens = data.draw(st.lists(st.integers(0, len(weights) - 1), min_size=1, max_size=6))
    first = [(token, weights[token] / total) for token in tokens]
    once, literal = soft_tifa.mass(first), soft_tifa.mass(first, dedupe=False)
    assert 0 <= once <= 1 + 1e-9 and once <= literal
    assert once == pytest.approx(literal) or len(set(tokens)) < len(tokens)


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=8))
def test_the_geometric_mean_is_statistics_own_and_at_most_the_arithmetic(scores):
    found = soft_tifa.geometric_mean(scores)
    assert found == pytest.approx(geometric_mean(scores), rel=1e-9)
    assert min(scores) - 1e-12 <= found <= fmean(scores) + 1e-12


def test_one_score_of_0_makes_the_geometric_mean_0():
    assert soft_tifa.geometric_mean([1.0, 0.0]) == 0
    with pytest.raises(ValueError, match="no scores"):
        soft_tifa.geometric_mean([])


# Files -----------------------------------------------------------------------------------------

# Scores that a run of the official script's descendant published with their summary, 99.86030528902342 and
# 99.86017185846244 (Yiran-SUSTech/GenEval2-Yiran, mini_scores.json); the prompts here are others of the same shape.
PUBLISHED = [
    [0.9999983488489221, 0.999999825753575, 0.9996762965208601, 0.9999993100335491, 0.999960168511284],
    [0.993281591636235, 0.9999955433078679, 0.9954833993375939],
    [0.9999853511471624, 0.9998246040855195, 0.9990766166968159],
]


def test_published_scores_have_their_published_means(tmp_path):
    rows = [*ROWS[:2], {**ROWS[1], "prompt": "five tin cups"}]
    prompts = geneval2.read_data(write(tmp_path / "d.jsonl", rows))
    found = soft_tifa.soft_tifa_table(
        prompts,
        [[scores] for scores in PUBLISHED],
        lambda own: sum(v for v, _ in own) / sum(n for _, n in own),
    )
    assert found["am"] == pytest.approx(0.9986030528902342, abs=1e-15)
    assert found["gm"] == pytest.approx(0.9986017185846244, abs=1e-15)
    assert list(found["gm_by_atoms"]) == ["3"] and found["gm_by_atoms"]["3"] == found["gm"]


def test_official_score_lists_are_scored(run_score, data, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps([[1, 1, 1, 0.5, 1], [0.25, 1, 1], [0.5, 0.5]]))
    found = run_score("geneval2", "s.json", "--annotations", "data.jsonl", "--resamples", 50)["saved"]
    assert found["am"]["mean"] == round(100 * (0.9 + 0.75 + 0.5) / 3, 2)
    assert found["gm"]["mean"] == round(100 * (0.5 ** (1 / 5) + 0.25 ** (1 / 3) + 0.5) / 3, 2)
    assert {n: (part["mean"], part["n"]) for n, part in found["gm_by_atoms"].items()} == {
        "3": (round(100 * (0.5 ** (1 / 5) + 0.25 ** (1 / 3)) / 2, 2), 2),
        "4": (50, 1),
    }
    # over questions: the counts are 1, .5, .25 and .5
    assert {skill: (part["mean"], part["n"]) for skill, part in found["am_by_skill"].items()} == {
        "attribute": (100, 2),
        "count": (56.25, 4),
        "object": (100, 3),
        "verb": (50, 1),
    }


def answers(**changes):
    """This pipeline's rows, of which all are right with P(yes) of .8."""
    items = geneval2.items([geneval2.Prompt(*parts) for parts in map(_parts, ROWS)])
    return [
        {
            "item": item.id,
            "k": 0,
            "question": q.id,
            "answer": q.answer,
            "p_yes": 0.8 if q.answer == "yes" else None,
            "expected": q.answer,
            **changes,
        }
        for item in items
        for q in item.questions
    ]


def _parts(row):
    triples = zip(row["vqa_list"], row["skills"], strict=True)
    return row["prompt"], row["atom_count"], tuple((*pair, skill) for pair, skill in triples)


def test_this_pipelines_answers_count_by_p_yes_and_numbers_by_being_right(run_score, data, tmp_path):
    rows = answers()
    rows[-2]["answer"] = "two"
    write(tmp_path / "a.jsonl", rows)
    found = run_score("geneval2", "a.jsonl", "--annotations", "data.jsonl", "--resamples", 50)["judged"]
    assert found["am_by_skill"]["count"]["mean"] == 75
    assert found["am_by_skill"]["object"]["mean"] == 80
    assert found["gm_by_atoms"]["4"]["mean"] == 0


def test_first_tokens_are_summed_in_both_ways(run_score, data, tmp_path):
    first = [{"token": 1, "p": 0.3}, {"token": 2, "p": 0.1}, {"token": 1, "p": 0.3}]
    write(tmp_path / "a.jsonl", answers(first=first))
    found = run_score("geneval2", "a.jsonl", "--annotations", "data.jsonl", "--resamples", 50)
    assert {way: (table["am"]["mean"], table["gm"]["mean"]) for way, table in found.items()} == {
        "deduplicated": (40, 40),
        "literal": (70, 70),
    }


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("s.json", [[1]], "holds scores of 1 prompts; the data has 3"),
        ("s.json", [[1, 1], [1, 1, 1], [1, 1]], "prompt 1 ('a red hen and an owl'): has 2 scores; the data has 5"),
        ("s.json", [[-1]], "[0][0] is -1"),
        ("s.json", {}, "is {}"),
        ("a.jsonl", answers()[1:], "item 'geneval2-00000', image 0, question '1' has no answer"),
        ("a.jsonl", answers(item="x")[:1], "item 'x', question '1' is not in the data"),
        ("a.jsonl", [*answers(), answers()[0]], "is in line 1 already"),
        ("a.jsonl", [*answers()[1:], {**answers()[0], "first": [{"token": 1, "p": 0.5}]}], "some rows have `first`"),
        ("a.jsonl", [{"item": "geneval2-00000", "k": 0, "question": "1"}], "neither `first` nor `answer`"),
        ("a.jsonl", answers(first=[{"token": 1, "p": 2}]), "p is 2"),
        ("a.jsonl", [], "holds no answers"),
    ],
)  # fmt: skip
def test_bad_scores_are_one_line(run_score, data, tmp_path, name, content, named):
    if name == "s.json":
        (tmp_path / name).write_text(json.dumps(content))
    else:
        write(tmp_path / name, content)
    code, line = run_score("geneval2", name, "--annotations", "data.jsonl")
    assert code == 2 and line.startswith(f"error: {name}") and named in line
