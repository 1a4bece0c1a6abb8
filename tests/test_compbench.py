"""T2I-CompBench++: prompts as questions, phrases by rules, and scores of official output and of a judge's answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selma.ground.errors import UserError
from selma.ground.items import load_split, write_split
from selma.variants.benchmarks import compbench
from tests.test_geneval import write


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a green bench and a blue bowl", ["a green bench", "a blue bowl"]),
        ("a red apple and yellow bananas", ["a red apple", "yellow bananas"]),
        ("A bathroom with white tile and a beige toilet.", ["A bathroom", "white tile", "a beige toilet"]),
        ("A black and white cat sits in a white sink.", ["A black and white cat sits", "a white sink"]),
        ("The oval mirror was hung above the white sink.", ["The oval mirror", "the white sink"]),
        ("The red hat is on top of the coat rack.", ["The red hat", "the coat rack"]),
        ("two goats, a hen and a cow in a field", ["two goats", "a hen", "a cow", "a field"]),
        ("a knife-on-wood board", ["a knife-on-wood board"]),
        ("on in at", ["on in at"]),
    ],
)
def test_phrases_are_found_by_the_rules(prompt, found):
    assert compbench.phrases(prompt) == found


ADJECTIVES = st.sampled_from(["red", "small", "wooden", "fluffy", "oblong"])
NOUNS = st.sampled_from(["bench", "cake", "stop sign", "school bus", "cat"])


@given(st.lists(st.tuples(ADJECTIVES, NOUNS), min_size=1, max_size=4))
def test_a_list_of_phrases_is_taken_apart_again(pairs):
    parts = [f"a {adjective} {noun}" for adjective, noun in pairs]
    assert compbench.phrases(" and ".join(parts)) == parts


WORDS = st.sampled_from(["a", "the", "red", "cat", "and", ",", "on", "is", "with", "two", "sits."])


@given(st.lists(WORDS, min_size=1, max_size=9))
def test_there_is_always_a_phrase_of_the_prompts_own_words(words):
    text = " ".join(words)
    found = compbench.phrases(text)
    assert found and all(phrase in text for phrase in found)


def asked(category, prompt):
    return [(q.text, q.category, q.parents) for q in compbench.questions(category, prompt)]


def test_attributes_are_asked_as_blip_vqa_asks_them():
    assert asked("color", "a green bench and a blue bowl") == [
        ("a green bench?", "attribute", ()),
        ("a blue bowl?", "attribute", ()),
    ]


@pytest.mark.parametrize(
    ("category", "prompt", "place"),
    [
        ("spatial", "a owl on the top of a bed", "Is the owl on the top of the bed?"),
        ("3d_spatial", "a owl hidden by a bed", "Is the owl hidden by the bed?"),
    ],
)
def test_places_depend_on_both_things(category, prompt, place):
    assert asked(category, prompt) == [
        ("Is there an owl?", "object", ()),
        ("Is there a bed?", "object", ()),
        (place, "position", ("1", "2")),
    ]


def test_a_count_is_half_of_a_things_score():
    assert asked("numeracy", "two keys, and an owl were a warm sight") == [
        ("Are there any keys?", "object", ()),
        ("Are there exactly two keys?", "count", ("1",)),
        ("Is there an owl?", "object", ()),
        ("Is there exactly one owl?", "count", ("3",)),
    ]


@pytest.mark.parametrize("category", ["spatial", "numeracy", "non_spatial"])
def test_what_no_rule_reads_is_asked_whole(category):
    assert asked(category, "Owls fly.") == [('Does this figure show "Owls fly"?', "scene", ())]
    assert [kind for _, kind, _ in asked("complex", "The red hat is on the bed.")] == [
        *["attribute"] * 2,
        "scene",
    ]


def test_files_are_categories_in_their_order(tmp_path):
    for name, text in {"color": "a red owl\n\na blue owl\r\n", "3d_spatial": "a owl behind a bed\n"}.items():
        (tmp_path / name).write_text(text)
    items = compbench.read({"3d_spatial": tmp_path / "3d_spatial", "color": tmp_path / "color"})
    assert [(item.id, item.prompt, item.skill) for item in items] == [
        ("color-00000", "a red owl", "color"),
        ("color-00001", "a blue owl", "color"),
        ("3d_spatial-00000", "a owl behind a bed", "3d_spatial"),
    ]
    write_split(tmp_path, "test", items)
    assert load_split(tmp_path, "test") == items
    (tmp_path / "color").write_text("\n")
    with pytest.raises(UserError, match="color: holds no prompts"):
        compbench.read({"color": tmp_path / "color"})


def test_every_category_is_scored_officially_or_names_its_substitute():
    assert {*compbench.ATTRIBUTES, *compbench.SUBSTITUTES} == set(compbench.FILES)


# Scores ----------------------------------------------------------------------------------------


def test_official_output_is_its_mean(run_score, tmp_path):
    """The output that the official repository shows (examples/reward), and one of two images a prompt."""
    shown = [{"question_id": 0, "answer": "0.7110"}, {"question_id": 1, "answer": "0.9217"}]
    (tmp_path / "vqa_result.json").write_text(json.dumps([*shown, {"question_id": 2, "answer": "0.8554"}]))
    found = run_score("compbench", "vqa_result.json", "--resamples", 50)["mean"]
    assert (found["mean"], found["n"]) == (round((0.7110 + 0.9217 + 0.8554) / 3, 4), 3)
    (tmp_path / "two.json").write_text(
        json.dumps([{"question_id": i, "answer": i / 8} for i in (3, 0, 2, 1)])
    )
    found = run_score("compbench", "two.json", "--images", 2, "--resamples", 200)["mean"]
    # means of prompts are .0625 and .3125
    assert (found["mean"], found["low"], found["high"], found["n"]) == (0.1875, 0.0625, 0.3125, 4)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([], "is []"),
        ([{"question_id": 0}], "missing key [0].answer"),
        ([{"question_id": 0, "answer": "good"}], "entry 1: question_id 0: answer is 'good'"),
        ([{"question_id": 0, "answer": "nan"}], "answer is 'nan'; it must be a number from -1 to 1"),
        ([{"question_id": 0, "answer": 1}] * 2, "entry 2: question_id 0 appears twice"),
        ([{"question_id": i, "answer": 1} for i in range(3)], "holds 3 scores, which are no multiple of 2"),
    ],
)
def test_bad_official_output_is_one_line(run_score, tmp_path, rows, named):
    (tmp_path / "r.json").write_text(json.dumps(rows))
    code, line = run_score("compbench", "r.json", "--images", 2)
    assert code == 2 and line.startswith("error: r.json") and named in line


@pytest.fixture
def split(tmp_path):
    """A test split of two colours' prompts and one place; returns rows of answers by P(yes)."""
    (tmp_path / "c.txt").write_text("a red owl and a blue bed\na tin cup\n")
    (tmp_path / "s.txt").write_text("a owl near a bed\n")
    write_split(
        tmp_path, "test", compbench.read({"color": tmp_path / "c.txt", "spatial": tmp_path / "s.txt"})
    )

    def rows(**p_yes):
        return [
            {
                "item": item.replace("_", "-"),
                "k": k,
                "question": str(i),
                "answer": "yes" if p >= 0.5 else "no",
                "p_yes": p,
                "expected": "yes",
            }
            for item, images in p_yes.items()
            for k, image in enumerate(images)
            for i, p in enumerate(image, start=1)
        ]

    return rows


def test_attributes_are_products_and_the_rest_says_what_it_stands_in_for(run_score, tmp_path, split):
    rows = split(
        color_00000=[[0.5, 0.8], [1.0, 0.2]],
        color_00001=[[0.9], [0.7]],
        spatial_00000=[[0.9, 0.1, 0.9], [0.9] * 3],
    )
    write(tmp_path / "a.jsonl", rows)
    found = run_score("compbench", "a.jsonl", "--annotations", "test.jsonl", "--resamples", 50)
    assert found["color"]["scorer"] == "product of P(yes), as BLIP-VQA"
    assert (found["color"]["score"]["mean"], found["color"]["score"]["n"]) == (
        round(((0.4 + 0.2) / 2 + 0.8) / 2, 4),
        2,
    )
    assert found["spatial"]["scorer"] == "questions, a substitute for UniDet"
    assert found["spatial"]["score"]["mean"] == round((1 / 3 + 1) / 2, 4)  # the place is void without the bed


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda rows: rows[:1], "item 'color-00000', image 0, question '2' has no answer"),
        (lambda rows: [{**row, "p_yes": None} for row in rows], "has no p_yes; attributes need it"),
        (lambda rows: [{**row, "item": "x"} for row in rows], "'x' and all other items are not in the benchmark"),
        (lambda rows: [{**row, "p_yes": 1.5} for row in rows], "line 1: p_yes is 1.5"),
        (lambda rows: [], "holds no answers"),
    ],
)  # fmt: skip
def test_bad_answers_are_one_line(run_score, tmp_path, split, change, named):
    write(tmp_path / "a.jsonl", change(split(color_00000=[[0.5, 0.8]])))
    code, line = run_score("compbench", "a.jsonl", "--annotations", "test.jsonl")
    assert code == 2 and line.startswith("error: a.jsonl") and named in line
