"""GenEval: questions of its metadata for a VQA judge, and the official summary of saved detections."""

from __future__ import annotations

import json

import numpy as np
import pytest

from selma.ground.errors import UserError
from selma.ground.items import load_split, write_split
from selma.scoring.bootstrap import bootstrap_mean, bootstrap_strata
from selma.variants.benchmarks import geneval

DOG = {"class": "dog", "count": 1}
ROWS = [
    {"tag": "single_object", "include": [DOG], "prompt": "a photo of a dog"},
    {
        "tag": "counting",
        "include": [{"class": "knife", "count": 3}],
        "exclude": [{"class": "knife", "count": 4}],
        "prompt": "a photo of three knifes",
    },
    {
        "tag": "color_attr",
        "include": [{**DOG, "color": "black"}, {"class": "apple", "count": 1, "color": "pink"}],
        "prompt": "a photo of a black dog and a pink apple",
    },
    {
        "tag": "position",
        "include": [DOG, {"class": "bench", "count": 1, "position": ["left of", 0]}],
        "prompt": "a photo of a bench left of a dog",
    },
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_line_of_metadata_becomes_questions_about_its_facts(tmp_path):
    items = geneval.read({"metadata": write(tmp_path / "m.jsonl", ROWS)})
    assert [(item.id, item.skill) for item in items] == [
        ("geneval-00000", "single_object"),
        ("geneval-00001", "counting"),
        ("geneval-00002", "color_attr"),
        ("geneval-00003", "position"),
    ]
    asked = [[(q.text, q.answer, q.category, q.parents) for q in item.questions] for item in items]
    assert asked == [
        [("Is there a dog?", "yes", "object", ())],
        [("Is there a knife?", "yes", "object", ()), ("How many knives are there?", "3", "count", ("1",))],
        [
            ("Is there a dog?", "yes", "object", ()),
            ("What color is the dog?", "black", "color", ("1",)),
            ("Is there an apple?", "yes", "object", ()),
            ("What color is the apple?", "pink", "color", ("3",)),
        ],
        [
            ("Is there a dog?", "yes", "object", ()),
            ("Is there a bench?", "yes", "object", ()),
            ("Is the bench to the left of the dog?", "yes", "position", ("1", "2")),
        ],
    ]
    write_split(tmp_path, "test", items)
    assert load_split(tmp_path, "test") == items


def test_other_metadata_of_the_same_form_is_asked_too(tmp_path):
    row = {
        "tag": "mixed",
        "include": [{"class": "bus", "count": 2}],
        "exclude": [DOG],
        "prompt": "two buses, no dog",
    }
    (item,) = geneval.read({"metadata": write(tmp_path / "m.jsonl", [row])})
    assert [(q.text, q.answer) for q in item.questions] == [
        ("Are there at least 2 buses?", "yes") if i else ("Is there a bus?", "yes") for i in (0, 1)
    ] + [("Is there a dog?", "no")]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"include": []}, "include is []"),
        ({"include": [{"class": "dog"}]}, "missing key include[0].count"),
        ({"include": [{**DOG, "color": "mauve"}]}, "color is 'mauve'; it must be one of: red, orange"),
        ({"include": [{**DOG, "position": ["left of", 0]}]}, "position is ['left of', 0]; it must be one of"),
        ({"include": [DOG, {**DOG, "position": ["near", 0]}]}, "position is ['near', 0]"),
        ({"include": [DOG, {**DOG, "position": ["above"]}]}, "position is ['above']"),
        ({"exclude": [{"class": "cat", "count": 3}]}, "exclude is {'class': 'cat', 'count': 3}"),
        ({"prompt": " "}, "prompt is ' '"),
    ],
)
def test_a_broken_line_is_named(tmp_path, changes, named):
    path = write(tmp_path / "m.jsonl", [ROWS[0], {**ROWS[0], **changes}])
    with pytest.raises(UserError) as error:
        geneval.read({"metadata": path})
    assert f"{path}, line 2: {named}" in str(error.value)


def test_a_file_without_lines_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no prompts"):
        geneval.read({"metadata": write(tmp_path / "m.jsonl", [])})


# Scores ----------------------------------------------------------------------------------------


def detected(tag, prompt, *correct):
    return [
        {
            "filename": f"images/{prompt}/{k}.png",
            "tag": tag,
            "prompt": f"a photo of {prompt}",
            "correct": right,
            "reason": "",
            "metadata": json.dumps({"prompt": prompt}),
            "details": "{}",
        }
        for k, right in enumerate(correct)
    ]


def test_the_official_summary_by_hand(run_score, tmp_path):
    rows = [
        *detected("counting", "two cats", True, False, False, False),
        *detected("single_object", "a cat", True, True, True, True),
        *detected("counting", "two dogs", False, False, False, False),
        *detected("single_object", "a dog", True, False),
    ]
    write(tmp_path / "r.jsonl", rows)
    found = run_score("geneval", "r.jsonl", "--resamples", 200)
    assert found["scorer"] == "detector"
    assert {tag: (part["mean"], part["n"]) for tag, part in found["by_tag"].items()} == {
        "counting": (12.5, 8),
        "single_object": (83.33, 6),
    }
    # mean over tags, not over images
    assert found["overall"]["mean"] == round(100 * (1 / 8 + 5 / 6) / 2, 2)
    assert found["overall"]["low"] < found["overall"]["mean"] < found["overall"]["high"]
    assert (found["images"]["mean"], found["images"]["n"]) == (round(100 * 6 / 14, 2), 14)
    assert (found["prompts"]["mean"], found["prompts"]["n"]) == (75, 4)


def test_a_vqa_judges_answers_give_the_same_summary_and_say_so(run_score, tmp_path):
    write(tmp_path / "m.jsonl", ROWS)
    said = {0: ["yes"], 1: ["yes", "4"], 2: ["yes", "black", "yes", "Pink."]}
    rows = [
        {"item": f"geneval-{n:05d}", "k": 0, "question": str(i), "answer": answer}
        for n, answers in said.items()
        for i, answer in enumerate(answers, start=1)
    ]
    write(tmp_path / "a.jsonl", rows)
    found = run_score("geneval", "a.jsonl", "--annotations", "m.jsonl", "--resamples", 20)
    assert found["scorer"] == "VQA judge, not the official detector"
    assert {tag: part["mean"] for tag, part in found["by_tag"].items()} == {
        "single_object": 100,
        "counting": 0,
        "color_attr": 100,
    }
    write(tmp_path / "a.jsonl", rows[:-1])  # an image that lacks an answer is not correct
    assert run_score("geneval", "a.jsonl", "--annotations", "m.jsonl")["by_tag"]["color_attr"]["mean"] == 0


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{"tag": "a", "correct": True}], "line 1: missing key filename"),
        ([{**detected("a", "x", True)[0], "correct": "yes"}], "line 1: correct is 'yes'"),
        (detected("a", "x", True) * 2, "line 2: filename 'images/x/0.png' is in line 1 already"),
        (
            [{"item": "geneval-00000", "k": 0, "question": "7", "answer": "yes"}],
            "'geneval-00000' has no question '7'",
        ),
        ([], "holds no answers"),
    ],
)
def test_bad_results_are_one_line(run_score, tmp_path, rows, named):
    write(tmp_path / "m.jsonl", ROWS)
    write(tmp_path / "r.jsonl", rows)
    code, line = run_score("geneval", "r.jsonl", "--annotations", "m.jsonl")
    assert code == 2 and line.startswith("error: r.jsonl") and named in line


def test_the_interval_over_strata_is_the_plain_one_of_a_single_stratum():
    random = np.random.default_rng(0)
    found = [(float(value), 1) for value in random.random(60)]
    mean, low, high = bootstrap_strata([found], resamples=4000, seed=1)
    plain = bootstrap_mean([value for value, _ in found], resamples=4000, seed=1)
    assert (mean, low, high) == pytest.approx(plain, abs=0.005)
    # Two independent strata of half the weight: the interval is narrower by the root of two.
    _, low2, high2 = bootstrap_strata([found, found], resamples=4000, seed=1)
    assert (high2 - low2) * 2**0.5 == pytest.approx(high - low, rel=0.1)
    with pytest.raises(ValueError, match="need strata"):
        bootstrap_strata([[]], resamples=10, seed=0)
