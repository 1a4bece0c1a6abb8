"""The command that scores saved answers: DSG's, TIFA's and HPS v2's figures on hand-worked files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selma import score
from selma.ground.items import Item, write_split
from selma.scoring import paper_tables as tables
from tests.test_sources import annotations, tifa_question, write

# a_1: 2 depends on 1, 3 on 2. a_2 has a malformed dependency, so officially none. b_1 lacks question 1.
ITEMS = {
    "a_1": [("1", "0"), ("2", "1"), ("3", "2")],
    "a_2": [("1", "0"), ("2", "1"), ("3", "1, left")],
    "b_1": [("2", "1"), ("3", "2")],
    "c_1": [("1", "0")],
}
ANSWERS = [
    ("a_1", "1", "no"),
    ("a_1", "2", "yes"),
    ("a_1", "3", "yes"),
    ("a_2", "1", "no"),
    ("a_2", "2", "yes"),
    ("a_2", "3", "yes"),
    ("b_1", "2", "yes"),
    ("b_1", "3", "yes"),
]


@pytest.fixture
def run(run_score):
    return run_score


@pytest.fixture
def dsg(run, tmp_path):
    """Score a CSV text on ITEMS."""
    path = annotations(tmp_path / "anns.csv", ITEMS)

    def call(text: str, *options: object) -> object:
        (tmp_path / "answers.csv").write_bytes(text.encode())
        result = run("dsg", "answers.csv", "--annotations", path, "--resamples", 50, *options)
        call.warnings = getattr(run, "warnings", "")
        return result

    return call


def table(rows=ANSWERS, header="item_id,question_id,answer") -> str:
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


def means(result, *names) -> list[float]:
    return [result[name]["mean"] for name in names]


def test_the_four_scores_by_hand(dsg):
    result = dsg(table())
    # a_1: 0 of 3 by its own rule but 3, whose parent 2 is right; a_2: 2 of 3; b_1: 2 is void, 3 stands
    assert means(result, "official_macro") == [round(100 * (1 / 3 + 2 / 3 + 1 / 2) / 3, 2)]
    assert means(result, "no_dependency_macro") == [round(100 * (2 / 3 + 2 / 3 + 1) / 3, 2)]
    assert means(result, "official_micro") == [50.0]
    # cascading: all of a_1 falls with its 1, of a_2 what names it; what b_1 lacks voids nothing
    assert means(result, "cascading_micro") == [25.0]
    assert [result[name]["n"] for name in ("official_macro", "cascading_micro")] == [3, 8]
    assert list(result["by_source"]) == ["a", "b"]
    assert means(result["by_source"]["a"], "official_macro", "official_micro") == [50.0, 50.0]
    assert result["by_category"]["whole"]["official_micro"] == result["official_micro"]
    assert result["by_broad_category"]["entity"]["cascading_micro"] == result["cascading_micro"]


def test_every_figure_has_its_interval(dsg):
    result = dsg(table())
    for name in ("official_macro", "no_dependency_macro", "official_micro", "cascading_micro"):
        figure = result[name]
        assert set(figure) == {"mean", "low", "high", "n"}
        assert 0 <= figure["low"] <= figure["mean"] <= figure["high"] <= 100
    assert result["official_macro"]["low"] < result["official_macro"]["high"]
    assert dsg(table()) == result
    assert dsg(table(), "--seed", 1) != result


def test_an_item_without_answers_scores_0_and_only_sources_that_are_there_count(dsg):
    result = dsg(table(ANSWERS[:3]))
    assert (result["official_macro"]["n"], result["official_micro"]["n"]) == (2, 3)  # a_2, and not b_1, c_1
    assert result["official_macro"]["mean"] == round(100 / 6, 2)
    assert "3 answers are missing in 1 items (first: a_2," in dsg.warnings


def test_a_question_without_an_answer_never_makes_the_denominator_of_its_item_smaller(dsg):
    result = dsg(table([*ANSWERS[3:5]]))
    assert result["no_dependency_macro"]["mean"] == round(
        100 / 3 / 2, 2
    )  # a_1 has no answers, a_2 one of three


def test_order_bytes_and_other_columns_make_no_difference(dsg):
    expected = dsg(table())
    assert dsg(table(reversed(ANSWERS))) == expected
    assert dsg("\ufeff" + table().replace("\n", "\r\n")) == expected
    assert dsg(table([(q, a, i, "x") for i, q, a in ANSWERS], "question_id,answer,item_id,note")) == expected
    assert dsg(table([(i, f"{q}.0", a) for i, q, a in ANSWERS])) == expected


def test_yes_counts_however_it_is_written_unless_asked_otherwise(dsg):
    expected = dsg(table())
    written = table([(i, q, " Yes." if a == "yes" else "NO") for i, q, a in ANSWERS])
    assert dsg(written) == expected
    assert "' Yes.' (6 answers like it) counts as yes" in dsg.warnings
    assert dsg(written, "--exact")["official_micro"]["mean"] == 0


def test_what_is_neither_yes_nor_no_scores_0_with_a_warning(dsg):
    expected = dsg(table())
    for other in ("a bus", "", "nothing", "nan", "11"):
        assert dsg(table([(i, q, a if a == "yes" else other) for i, q, a in ANSWERS])) == expected
        assert f"2 answers are neither yes nor no (first: {other!r})" in dsg.warnings


@pytest.mark.parametrize("file", ["bool.csv", "sentence.csv"])
def test_an_answer_is_read_as_the_judges_read_theirs(run, tmp_path, file):
    """Each of the items has all questions but one answered with yes, in other words."""
    rows = {
        "bool.csv": "a_1,1,True\na_1,2,1\na_1,3,0\na_2,1,true\n",
        "sentence.csv": 'a_1,1,"Yes, there are two."\na_1,2,"yes, there is"\na_1,3,"No"\na_2,1,**Yes** it is\n',
    }
    header = "item_id,text,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language"
    lines = [
        f"a_{item},t{item},{q},{int(q > 1)},entity,whole,t,q" for item, q in ((1, 1), (1, 2), (1, 3), (2, 1))
    ]
    (tmp_path / "anns.csv").write_text("\n".join([header, *lines]))
    (tmp_path / file).write_text("item_id,question_id,answer\n" + rows[file])
    found = run("dsg", file, "--annotations", "anns.csv")
    assert means(found, "official_macro", "official_micro") == [83.33, 75.0]
    exact = run("dsg", file, "--annotations", "anns.csv", "--exact")
    assert means(exact, "official_macro") == [0.0]


def test_tifa_reads_yes_and_no_likewise(run, tmp_path):
    write(tmp_path / "q.json", [tifa_question(), tifa_question(question="is it blue?", answer="no")])
    (tmp_path / "a.csv").write_text('item_id,question_id,answer\ncoco_1,1,"Yes, a dog."\ncoco_1,2,False\n')
    assert means(run("tifa", "a.csv", "--annotations", "q.json"), "macro") == [100.0]


@pytest.mark.parametrize("answer", ["1", "true", '["yes"]', '{"yes": 1}', "NaN"])
def test_an_answer_of_another_type_is_one_line(dsg, run, tmp_path, answer):
    dsg(table())
    (tmp_path / "a.jsonl").write_text(f'{{"item": "a_1", "k": 0, "question": "1", "answer": {answer}}}\n')
    code, line = run("dsg", "a.jsonl", "--annotations", "anns.csv")
    assert code == 2 and line.startswith("error: a.jsonl, line 1: ")


@pytest.mark.parametrize("k", ["1e999", "null", "-1", "true", "0.5", "1" * 5000, '"0"'])
def test_the_number_of_an_image_is_one(run, tmp_path, k):
    row = f'{{"item": "a_1", "k": {k}, "question": "1", "answer": "yes"}}\n'
    (tmp_path / "a.jsonl").write_text("\n" + row)  # blank lines count
    code, line = run("dsg", "a.jsonl")
    assert code == 2 and line.startswith("error: a.jsonl, line 2: ") and len(line) < 200


def test_one_model_is_picked_of_several(dsg):
    rows = [(*row, "mine") for row in ANSWERS] + [(i, q, "no", "other") for i, q, _ in ANSWERS]
    text = table(rows, "item_id,question_id,answer,t2i_model")
    assert dsg(text, "--t2i-model", "mine") == dsg(table())
    assert dsg(text, "--t2i-model", "other")["official_macro"]["mean"] == 0
    assert dsg(text) == (2, "error: answers.csv: t2i_model holds mine, other; pick one with --t2i-model")
    assert dsg(text, "--t2i-model", "sd3") == (
        2,
        "error: answers.csv: t2i_model holds no 'sd3'; allowed: mine, other",
    )
    assert dsg(table(), "--t2i-model", "mine")[0] == 2


def test_answers_to_other_questions_are_left_out(dsg):
    rows = [(*row, "dsg") for row in ANSWERS] + [(i, q, "no", "vq2a") for i, q, _ in ANSWERS]
    assert dsg(table(rows, "item_id,question_id,answer,qg_model")) == dsg(table())
    code, line = dsg(table(rows[len(ANSWERS) :], "item_id,question_id,answer,qg_model"))
    assert code == 2 and "answers the questions of vq2a (qg_model), not of dsg" in line


def test_items_that_the_benchmark_has_not_are_left_out_with_a_warning(dsg):
    assert dsg(table([*ANSWERS, ("z_1", "1", "yes")])) == dsg(table())
    dsg(table([*ANSWERS, ("z_1", "1", "yes")]))
    assert "left out 1 items that are not in the benchmark (first: 'z_1')" in dsg.warnings


def test_the_same_answer_twice_counts_once(dsg):
    assert dsg(table([*ANSWERS, ANSWERS[0]])) == dsg(table())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "has no column item_id, question_id, answer"),
        ("item_id,question_id\na_1,1\n", "has no column answer; needed: item_id, question_id, answer"),
        ("item_id,question_id,answer\n", "holds no rows"),
        ("item_id,question_id,answer\na_1,1\n", "line 2: has 2 cells"),
        ("item_id,question_id,answer\n,1,yes\n", "line 2: item_id and question_id are '' and '1'"),
        ("item_id,question_id,answer\nz_1,1,yes\n", "'z_1' and all other items are not in the benchmark"),
        ("item_id,question_id,answer\na_1,0,yes\n", "question '0' is not in the benchmark"),
        ("item_id,question_id,answer\na_1,1,yes\na_1,1,no\n", "line 3: item 'a_1', question '1' is answered"),
    ],
)
def test_bad_answers_are_one_line_and_exit_code_2(dsg, text, named):
    code, line = dsg(text)
    assert code == 2 and line.startswith("error: ") and named in line


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["dsg", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["dsg", "a.csv"], "data/benchmarks/dsg/annotations.csv is missing: download it with"),
        (["dsg", "a.csv", "--resamples", "0"], "--resamples: 0"),
        (
            ["dsg", "a.csv", "--resamples", "1000000000000"],
            "--resamples: 1000000000000; allowed: 2 to 1000000",
        ),
        (["dsg", "a.csv", "--seed", "-1"], "--seed: -1"),
        (["web", "a.csv"], "invalid choice: 'web'"),
        ([], "required"),
    ],
)
def test_a_call_that_cannot_work_is_exit_code_2(run, tmp_path, words, named):
    (tmp_path / "a.csv").write_text(table())
    code, line = run(*words)
    assert code == 2 and named in line


def test_the_benchmark_stages_file_is_the_default(run, dsg, tmp_path):
    expected = dsg(table())
    folder = tmp_path / "data/benchmarks/dsg"
    folder.mkdir(parents=True)
    (tmp_path / "anns.csv").rename(folder / "annotations.csv")
    assert run("dsg", "answers.csv", "--resamples", 50) == expected


def test_this_pipelines_answers_are_scored_too(run, dsg, tmp_path):
    expected = dsg(table())
    rows = [{"item": i, "k": k, "question": q, "answer": a} for i, q, a in ANSWERS for k in (0, 1)]
    (tmp_path / "merged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("dsg", "merged.jsonl", "--annotations", "anns.csv", "--resamples", 50)
    assert result["official_macro"] == expected["official_macro"]
    assert result["official_micro"] == {**expected["official_micro"], "n": 16}


def test_this_pipelines_own_answers_are_scored_too(run, dsg, tmp_path):
    rows = [{"item": i, "k": 0, "question": q, "answer": a} for i, q, a in ANSWERS]
    (tmp_path / "dsg.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("dsg", "dsg.jsonl", "--annotations", "anns.csv", "--resamples", 50) == dsg(table())


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_cascading_never_scores_more_than_direct_parents_do(tmp_path_factory, data):
    ids = [str(i) for i in range(1, 6)]
    cells = [",".join(data.draw(st.lists(st.sampled_from(["0", *ids]), min_size=1, max_size=2))) for _ in ids]
    path = annotations(tmp_path_factory.mktemp("dsg") / "a.csv", {"a_1": list(zip(ids, cells, strict=True))})
    said = [data.draw(st.sampled_from(["yes", "no"])) for _ in ids]
    answers = [tables.Saved("a_1", 0, id, answer, 0) for id, answer in zip(ids, said, strict=True)]
    found = score.dsg.read_annotations(path)
    result = tables.dsg_table(found, answers, tables.percent(5, 0), where=path)
    assert (
        result["cascading_micro"]["mean"]
        <= result["official_micro"]["mean"]
        <= result["no_dependency_macro"]["mean"]
        == 20 * said.count("yes")
    )


# The authors' own answers, where their files lie: SELMA_BENCHMARKS=FOLDER pytest tests/test_score.py
RELEASED = Path(os.environ.get("SELMA_BENCHMARKS", "."))
released = pytest.mark.skipif(
    not (RELEASED / "mplug_dsg.csv").is_file(), reason="SELMA_BENCHMARKS names no folder with mplug_dsg.csv"
)


@released
@pytest.mark.parametrize(
    ("model", "expected", "n"),
    [
        ("sd2dot1", (83.05, 87.56, 81.72, 81.54), (1060, 8174)),
        ("mini-dalle", (90.45, 93.94, 90.88, 90.55), (160, 921)),
        ("vq-diffusion", (89.86, 93.76, 88.93, 88.93), (160, 921)),
        ("sd1dot1", (87.92, 91.68, 88.49, 88.17), (160, 921)),
        ("sd1dot5", (87.15, 91.23, 87.84, 87.73), (160, 921)),
    ],
)
def test_the_released_answers_have_the_published_scores(run, model, expected, n):
    anns = RELEASED / "dsg-1k-anns.csv"
    result = run(
        "dsg", RELEASED / "mplug_dsg.csv", "--annotations", anns, "--t2i-model", model, "--resamples", 9
    )
    names = ("official_macro", "no_dependency_macro", "official_micro", "cascading_micro")
    assert means(result, *names) == pytest.approx(expected, abs=0.0101)
    assert (result["official_macro"]["n"], result["official_micro"]["n"]) == n
    assert "8 answers are missing in 1 items (first: tifa160_134" in run.warnings


@released
def test_the_official_tifa_sample_has_its_own_scores(run):
    path = RELEASED / "tifa_sample_evaluation_result.json"
    official = json.loads(path.read_text())
    result = run("tifa", path, "--annotations", RELEASED / "tifa_sample_question_answers.json")
    assert result["macro"]["mean"] == round(100 * official["tifa_average"], 2)
    by_type = {name: round(100 * value, 2) for name, value in official["accuracy_by_type"].items()}
    assert {name: figure["mean"] for name, figure in result["by_type"].items()} == by_type


# TIFA ------------------------------------------------------------------------------------------

QUESTIONS = [
    tifa_question("coco_1", "is it a dog?"),
    tifa_question("coco_1", "what is it?", choices=["dog", "cat", "cow", "hen"], answer="dog"),
    tifa_question("drawbench_1", "how many?", choices=["1", "2"], answer="2", element_type="counting"),
]


def official_result(*said: str, key: str = "multiple_choice_vqa") -> dict[str, object]:
    details: dict[str, dict[str, object]] = {}
    for row, answer in zip(QUESTIONS, said, strict=True):
        details.setdefault(row["id"], {})[row["question"]] = {**row, key: answer}
    return {"tifa_average": 0.0, "question_details": details}


def test_tifa_is_macro_over_captions_and_micro_by_type(run, tmp_path):
    write(tmp_path / "r.json", official_result("yes", "cat", "2"))
    result = run("tifa", "r.json", "--resamples", 50)
    assert (result["macro"]["mean"], result["macro"]["n"]) == (75, 2)
    assert (result["micro"]["mean"], result["micro"]["n"]) == (66.67, 3)
    assert {name: figure["mean"] for name, figure in result["by_type"].items()} == {
        "animal/human": 50,
        "counting": 100,
    }
    assert {name: figure["mean"] for name, figure in result["by_source"].items()} == {
        "coco": 50,
        "drawbench": 100,
    }


def test_tifa_scores_a_csv_on_the_questions_alike(run, tmp_path):
    write(tmp_path / "r.json", official_result("yes", "cat", "2"))
    write(tmp_path / "q.json", QUESTIONS)
    rows = [("coco_1", "1", "Yes."), ("coco_1", "2", "cat"), ("drawbench_1", "1", "2")]
    (tmp_path / "a.csv").write_text(table(rows))
    assert run("tifa", "a.csv", "--annotations", "q.json") == run("tifa", "r.json", "--annotations", "q.json")


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (
            [("coco_1", "1", "yes"), ("coco_1", "2", "cat")],
            "item 'drawbench_1', image 0, question '1' has no answer",
        ),
        (
            [("coco_1", "1", "yes"), ("coco_1", "2", "a puppy")],
            "'a puppy', which is not one of dog, cat, cow, hen",
        ),
        ([("coco_1", "9", "yes")], "item 'coco_1' has no question '9'"),
    ],
)
def test_tifa_needs_an_answer_and_a_choice_for_every_question(run, tmp_path, rows, named):
    write(tmp_path / "q.json", QUESTIONS)
    (tmp_path / "a.csv").write_text(table(rows))
    code, line = run("tifa", "a.csv", "--annotations", "q.json")
    assert code == 2 and named in line


@pytest.mark.parametrize(
    ("result", "named"),
    [
        ([], "the file is []; it must be a mapping of question_details"),
        ({"question_details": {}}, "question_details is {}; it must have at least 1 item"),
        ({"question_details": {"coco_1": {"q": {}}}}, "missing key question_details.coco_1.q.id"),
        ({"question_details": {"coco_1": {}}}, "question_details of 'coco_1' is empty"),
        (official_result("a", "b", "c", key="other"), "has no answer (multiple_choice_vqa or free_form_vqa)"),
    ],
)
def test_a_broken_official_result_is_named(run, tmp_path, result, named):
    write(tmp_path / "r.json", result)
    code, line = run("tifa", "r.json")
    assert code == 2 and named in line


def test_a_question_whose_answer_is_none_of_its_choices_is_refused(run, tmp_path):
    write(tmp_path / "q.json", [tifa_question(choices=["cat", "cow"], answer="dog")])
    (tmp_path / "a.csv").write_text("item_id,question_id,answer\ncoco_1,1,cat\n")
    code, line = run("tifa", "a.csv", "--annotations", "q.json")
    assert code == 2 and "answer 'dog' is not among its choices; allowed: cat, cow" in line
    result = official_result("cat", "cat", "cat")
    for row in result["question_details"]["coco_1"].values():
        row["answer"] = "dodo"
    write(tmp_path / "r.json", result)
    code, line = run("tifa", "r.json")
    assert code == 2 and "answer 'dodo' is not among its choices" in line


def test_an_official_result_must_cover_the_annotations(run, tmp_path):
    write(tmp_path / "r.json", official_result("yes", "cat", "2"))
    write(tmp_path / "q.json", [*QUESTIONS, tifa_question("coco_2")])
    code, line = run("tifa", "r.json", "--annotations", "q.json")
    assert code == 2 and "has no answers to item 'coco_2'" in line


# HPS v2 ----------------------------------------------------------------------------------------


@pytest.fixture
def styles(tmp_path):
    items = [Item(f"{style}-0000{k}", "p", style, "hps", ()) for style in ("anime", "photo") for k in (0, 1)]
    write_split(tmp_path / "data/benchmarks/hps", "test", items)
    return items


def test_a_picture_without_a_score_is_an_error(run, styles, tmp_path):
    rows = [{"item": f"anime-0000{i}", "k": k, "score": 1.0} for i in (0, 1) for k in (0, 1)][:-1]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, line = run("hps", "s.jsonl")
    assert code == 2 and "item 'anime-00001', image 1 has no score" in line


def test_preference_scores_by_style(run, styles, tmp_path):
    (tmp_path / "s.csv").write_text(
        "item_id,score\nanime-00000,0.25\nanime-00001,0.75\nphoto-00000,0.1\nphoto-00001,-0.1\n"
    )
    result = run("hps", "s.csv", "--resamples", 50)
    assert (result["macro"]["mean"], result["macro"]["n"]) == (0.25, 4)
    assert {style: figure["mean"] for style, figure in result["by_style"].items()} == {
        "anime": 0.5,
        "photo": 0.0,
    }


def test_one_judges_scores_of_several_images_are_averaged(run, styles, tmp_path):
    rows = [
        {"item": f"anime-0000{i}", "k": k, "judge": judge, "score": value + k}
        for judge, value in (("hps", 1.0), ("pickscore", 20.0))
        for i in (0, 1)
        for k in (0, 1)
    ]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("hps", "s.jsonl", "--judge", "hps")["by_style"]["anime"]["mean"] == 1.5
    assert run("hps", "s.jsonl") == (2, "error: s.jsonl: judge holds hps, pickscore; pick one with --judge")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("anime-00000,1\n", "item 'anime-00001' has no score"),
        ("anime-00000,high\n", "line 2: score is 'high'; it must be a finite number"),
        ("anime-00000,nan\n", "score is 'nan'"),
        ("anime-00000,1e308\nanime-00001,1e308\n", "line 2: score is 1e+308; it must be within 1e+09 of 0"),
        ("anime-00000,1\nanime-00000,1\n", "already has a score"),
        ("oil-00000,1\n", "are not in the benchmark"),
        ("anime-00000,1_0\n", "score is '1_0'; it must be a finite number"),
    ],
)
def test_bad_scores_are_one_line(run, styles, tmp_path, text, named):
    (tmp_path / "s.csv").write_text("item_id,score\n" + text)
    code, line = run("hps", "s.csv")
    assert code == 2 and named in line
