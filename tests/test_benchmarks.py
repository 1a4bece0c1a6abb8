"""The benchmark files: what is written is read back, and everything broken is named by file and line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selma.ground.errors import UserError
from selma.ground.items import Item, Question, load_split, splits, write_split
from selma.runtime import variants
from selma.variants.benchmarks import shapes

QUESTION = Question("1", "Is there a circle?", ("yes", "no"), "yes", (), "object")
CHILD = Question("2", "Is the circle red?", ("yes", "no"), "yes", ("1",), "color")
ITEM = Item("count-1", "two red circles", "count", "shapes", (QUESTION, CHILD))


def broken(folder, **changes):
    """Write a good line and ITEM's with `changes`: None removes a key, `q_x` is x of the first question."""
    write_split(folder, "test", [replace(ITEM, id="good", prompt="a good prompt"), ITEM])
    good, bad = (folder / "test.jsonl").read_text().splitlines()
    row = json.loads(bad)
    for key, value in changes.items():
        target, key = (row["questions"][0], key[2:]) if key.startswith("q_") else (row, key)
        if value is None:
            del target[key]
        else:
            target[key] = value
    (folder / "test.jsonl").write_text(f"{good}\n{json.dumps(row)}\n")


def test_what_is_written_is_read_back_in_order(tmp_path):
    items = [ITEM, Item("b.2", "été \u2028 “quoted”", "paragraph", "shapes", (QUESTION,))]
    write_split(tmp_path, "dev", items)
    assert load_split(tmp_path, "dev") == items


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompt": "  "}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": None}, "missing key prompt; the row needs id, prompt"),
        ({"id": "../up"}, "'../up'"),
        ({"id": "good"}, "'good' appears twice"),
        ({"id": "GOOD"}, "'GOOD' appears twice"),  # one file on a disk that ignores case
        ({"id": "a" * 200}, "at most 160"),
        ({"q_answer": 1}, "answer is 1; it must be a valid string"),
        ({"q_answer": ["yes"]}, "answer is ['yes']; it must be a valid string"),
        ({"extra": 1}, "unknown key extra; it must be one of: id"),
        ({"questions": "none"}, "questions is 'none'; it must be a list"),
        ({"absent": ["1"]}, "absent lists 1, which the item has"),
        ({"absent": "9"}, "absent is '9'"),
        ({"q_id": "2"}, "'2' appears twice"),
        ({"q_answer": "maybe"}, "'maybe' is not among its choices; allowed: yes, no"),
        ({"q_choices": "yes"}, "choices"),
        ({"q_choices": []}, "not among its choices"),
        ({"q_parents": ["9"]}, "unknown parent '9'; allowed: 1, 2"),
        ({"q_parents": ["2", "2"]}, "twice"),
        ({"q_category": ""}, "category"),
    ],
)
def test_a_broken_item_is_named_with_file_and_line(tmp_path, changes, named):
    broken(tmp_path, **changes)
    with pytest.raises(UserError) as error:
        load_split(tmp_path, "test")
    assert named in str(error.value)
    assert f"{tmp_path / 'test.jsonl'}, line 2" in str(error.value)
    assert "\n" not in str(error.value)


def test_parents_may_point_forwards_and_at_themselves_as_some_of_dsg_do(tmp_path):
    broken(tmp_path, q_parents=["2", "1"])
    assert load_split(tmp_path, "test")[1].questions[0].parents == ("2", "1")


@pytest.mark.parametrize(
    ("text", "named"), [("{", "line 1"), ("[]\n", "line 1"), ("", "no items"), ("\n\n", "no items")]
)
def test_a_file_that_holds_no_items_is_an_error(tmp_path, text, named):
    (tmp_path / "test.jsonl").write_text(text)
    with pytest.raises(UserError, match=named):
        load_split(tmp_path, "test")


def test_an_item_may_lack_questions_and_a_question_that_others_depend_on(tmp_path):
    bare = Item("anime-00000", "a knight", "anime", "hps", ())
    orphan = Item("tifa160_134", "two pigs", "tifa160", "tifa160", (CHILD,), absent=("1",))
    write_split(tmp_path, "test", [bare, orphan])
    assert load_split(tmp_path, "test") == [bare, orphan]
    assert "absent" not in (tmp_path / "test.jsonl").read_text().splitlines()[0]


def test_a_missing_file_and_an_unknown_split_are_named(tmp_path):
    with pytest.raises(UserError, match=r"test\.jsonl is missing; the benchmark stage writes it"):
        load_split(tmp_path, "test")
    write_split(tmp_path, "test", [ITEM])
    with pytest.raises(UserError, match=r"dev\.jsonl is missing; this benchmark has a test split only"):
        load_split(tmp_path, "dev")
    assert splits(tmp_path) == ["test"]
    with pytest.raises(UserError, match="'train' is unknown; allowed: dev, test"):
        load_split(tmp_path, "train")


def test_nothing_is_written_of_a_broken_item(tmp_path):
    with pytest.raises(UserError, match="item 1: prompt"):
        write_split(tmp_path, "dev", [replace(ITEM, prompt="")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", [{"id": "other"}, {"prompt": "another prompt"}])
def test_splits_that_share_a_prompt_or_an_id_are_refused(tmp_path, other):
    write_split(tmp_path, "dev", [ITEM])
    overlapping = replace(ITEM, **({"prompt": "Two  RED circles"} | other))
    with pytest.raises(UserError, match="splits must be disjoint"):
        write_split(tmp_path, "test", [overlapping])
    assert not (tmp_path / "test.jsonl").exists()

    (tmp_path / "dev.jsonl").rename(tmp_path / "aside")
    write_split(tmp_path, "test", [overlapping])
    (tmp_path / "aside").rename(tmp_path / "dev.jsonl")
    with pytest.raises(UserError, match="splits must be disjoint"):
        load_split(tmp_path, "test")


def test_one_prompt_may_stand_twice_in_a_split_as_in_dsg(tmp_path):
    write_split(tmp_path, "test", [ITEM, replace(ITEM, id="count-2")])
    assert len(load_split(tmp_path, "test")) == 2


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_embedded_exam_fits_the_schema_and_its_splits_are_disjoint(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("exam")
    exam = shapes.make(seed=seed, dev_per_skill=2, test_per_skill=3)
    for split, items in exam.items():
        write_split(folder, split, items)
    assert {split: load_split(folder, split) for split in splits(folder)} == exam
    assert [len(items) % 5 for items in exam.values()] == [0, 0]


def test_an_unknown_source_is_named():
    with pytest.raises(
        UserError,
        match="source is 'web'; it must be one of: compbench, csv, dpg, dsg, geneval, geneval2, hps, shapes, tifa",
    ):
        variants.load("benchmarks", "web", "benchmarks.mine.source")
