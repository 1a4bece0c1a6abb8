"""DSG's rules on hand-worked examples, and what holds for any answers at all."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selma.ground.errors import UserError
from selma.ground.files import write_jsonl
from selma.ground.items import Item, Question
from selma.scoring import bootstrap
from selma.scoring.bootstrap import bootstrap_gain, bootstrap_mean
from selma.scoring.scores import (
    by_category,
    by_skill,
    clusters,
    item_scores,
    load_answers,
    macro,
    micro,
    score_answers,
)
from selma.scoring.summary import category_rows, skill_rows, summarise

# Time says nothing about these on a busy machine.
quick = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


def question(id, parents=(), category="object", answer="yes"):
    return Question(id, f"question {id}", ("yes", "no"), answer, tuple(parents), category)


def rows(item, k=0, **answers):
    """Answers to an item's questions about image k: q1="yes", ...; expected as the benchmark has it."""
    expected = {q.id: q.answer for q in item.questions}
    return [
        {
            "item": item.id,
            "k": k,
            "question": id[1:],
            "answer": a,
            "p_yes": 0.5,
            "expected": expected.get(id[1:]),
        }
        for id, a in answers.items()
    ]


CHAIN = Item("a", "p", "s", "t", (question("1"), question("2", "1", "color"), question("3", "2", "relation")))
LONE = Item("b", "q", "u", "t", (question("1", answer="no"),))


def test_a_question_is_void_when_a_direct_parent_is_wrong_and_only_then():
    scores = score_answers([CHAIN], rows(CHAIN, q1="no", q2="yes", q3="yes"))
    assert [score.raw for score in scores] == [0, 1, 1]
    # 2 is void by its parent 1; 3 stands: its own parent 2 was answered as expected
    assert [score.score for score in scores] == [0, 0, 1]
    assert macro(scores) == pytest.approx(1 / 3)
    assert macro(scores, dependencies=False) == pytest.approx(2 / 3)


def test_micro_is_the_papers_a_wrong_answer_voids_what_depends_on_it_at_any_remove():
    scores = score_answers([CHAIN], rows(CHAIN, q1="no", q2="yes", q3="yes"))
    assert [score.cascading for score in scores] == [0, 0, 0] and micro(scores) == 0
    orphan = Item("a", "p", "s", "t", (question("2", "1"), question("3", "2")), absent=("1",))
    assert micro(score_answers([orphan], rows(orphan, q2="yes", q3="yes"))) == 1
    circle = Item("a", "p", "s", "t", (question("1", "2"), question("2", "1"), question("3")))
    assert micro(score_answers([circle], rows(circle, q1="yes", q2="no", q3="yes"))) == pytest.approx(1 / 3)


def test_every_parent_must_hold_and_circles_do_no_harm():
    item = Item("a", "p", "s", "t", (question("1", "3"), question("2"), question("3", ["1", "2", "3"])))
    all_right = score_answers([item], rows(item, q1="yes", q2="yes", q3="yes"))
    one_wrong = score_answers([item], rows(item, q1="yes", q2="no", q3="yes"))
    assert [score.score for score in all_right] == [1, 1, 1]
    assert [score.score for score in one_wrong] == [1, 0, 0]


def test_a_parent_that_the_benchmark_lacks_voids_its_children_whatever_the_picture_shows():
    item = Item("a", "p", "s", "t", (question("2", "1"), question("3")), absent=("1",))
    scores = score_answers([item], rows(item, q2="yes", q3="yes"))
    assert [(score.raw, score.score) for score in scores] == [(1, 0), (1, 1)]


def test_a_benchmark_without_questions_cannot_be_answered():
    with pytest.raises(UserError, match="here: the benchmark has no questions"):
        score_answers([Item("a", "p", "s", "t", ())], [], where="here")


def test_the_expected_answer_may_be_no():
    scores = score_answers([LONE], rows(LONE, q1="no"))
    assert macro(scores) == 1


def test_items_weigh_the_same_in_macro_and_questions_in_micro():
    answers = rows(CHAIN, q1="yes", q2="yes", q3="yes") + rows(LONE, q1="yes")
    scores = score_answers([CHAIN, LONE], answers)
    assert macro(scores) == 0.5
    assert micro(scores) == 0.75
    assert item_scores(scores) == {"a": 1, "b": 0}
    assert by_skill(scores) == {"s": 1, "u": 0}
    assert by_category(scores) == {"color": 1, "object": 0.5, "relation": 1}


def test_an_item_is_the_mean_over_its_images():
    answers = rows(CHAIN, 0, q1="yes", q2="yes", q3="yes") + rows(CHAIN, 1, q1="no", q2="no", q3="no")
    assert macro(score_answers([CHAIN], answers)) == 0.5


def test_an_item_without_answers_scores_0_with_a_warning(capsys):
    scores = score_answers([CHAIN, LONE], rows(CHAIN, q1="yes", q2="yes", q3="yes"), where="here")
    assert macro(scores) == 0.5
    assert clusters(scores) == {"a": (3, 3)}
    assert micro(scores) == 1  # over answered questions, as DSG's released figures are
    warning = capsys.readouterr().err
    assert warning.startswith("warning: here: 1 answers are missing in 1 items (first: b,")


def test_a_missing_image_never_makes_the_denominator_smaller():
    answers = rows(CHAIN, 0, q1="yes", q2="yes", q3="yes") + rows(LONE, 0, q1="no") + rows(LONE, 1, q1="no")
    assert item_scores(score_answers([CHAIN, LONE], answers)) == {"a": 0.5, "b": 1}


@pytest.mark.parametrize(
    ("answers", "named"),
    [
        ([], "holds no answers"),
        (
            [{"item": "z", "k": 0, "question": "1", "answer": "yes", "expected": "yes"}],
            "none of the benchmark's 2",
        ),
        (rows(CHAIN, q9="yes"), "question '9' is not in the benchmark"),
        (rows(CHAIN, q1="yes") * 2, "answered twice"),
        ([{**rows(CHAIN, q1="yes")[0], "expected": "no"}], "expects 'no', but the benchmark expects 'yes'"),
    ],
)
def test_answers_that_do_not_fit_are_named(answers, named):
    with pytest.raises(UserError) as error:
        score_answers([CHAIN, LONE], answers, where="answers.jsonl")
    assert named in str(error.value)
    assert str(error.value).startswith("answers.jsonl")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"answer": None}, "answer is None"),
        ({"answer": 1}, "answer is 1; it must be a valid string"),
        ({"answer": ["yes"]}, "answer is ['yes']"),
        ({"answer": "maybe"}, "is answered 'maybe'; one of yes, no is needed"),
        ({"k": "one"}, "k is 'one'; it must be a valid integer"),
        ({"k": True}, "k is True"),
        ({"k": -1}, "k is -1; it must be greater than or equal to 0"),
        ({"p_yes": 2}, "p_yes is 2; it must be less than or equal to 1"),
        ({"question": ""}, "question is ''; it must be a non-empty string"),
        ({"item": 3}, "item is 3"),
    ],
)
def test_a_row_of_an_answers_file_that_does_not_fit_is_named(tmp_path, change, named):
    write_jsonl(tmp_path / "a.jsonl", [{**rows(CHAIN, q1="yes")[0], **change}])
    with pytest.raises(UserError) as error:
        load_answers(tmp_path / "a.jsonl", [CHAIN, LONE])
    assert named in str(error.value) and str(tmp_path / "a.jsonl") in str(error.value)


@st.composite
def answered(draw):
    """Some items with any dependencies, and answers to all their questions about every image."""
    items, answers = [], []
    n_images = draw(st.integers(1, 3))
    for number in range(draw(st.integers(1, 5))):
        ids = [str(i) for i in range(draw(st.integers(1, 5)))]
        questions = tuple(
            question(id, draw(st.lists(st.sampled_from(ids), unique=True)), draw(st.sampled_from("xy")))
            for id in ids
        )
        item = Item(f"i{number}", f"p{number}", draw(st.sampled_from(["s", "t"])), "test", questions)
        items.append(item)
        for k in range(n_images):
            said = {f"q{id}": draw(st.sampled_from(["yes", "no"])) for id in ids}
            answers += rows(item, k, **said)
    return items, answers


@quick
@given(answered())
def test_dependencies_never_raise_a_score(case):
    scores = score_answers(*case)
    assert all(0 <= score.score <= score.raw <= 1 for score in scores)
    assert macro(scores) <= macro(scores, dependencies=False)
    assert all(0 <= score.cascading <= score.raw for score in scores)


@quick
@given(answered(), st.randoms(use_true_random=False))
def test_the_order_of_items_and_answers_changes_no_score(case, random):
    items, answers = case
    before = score_answers(items, answers)
    shuffled_items, shuffled = random.sample(items, len(items)), random.sample(answers, len(answers))
    after = score_answers(shuffled_items, shuffled)
    for aggregate in (item_scores, by_skill, by_category):
        assert aggregate(after) == pytest.approx(aggregate(before))
    assert macro(after) == pytest.approx(macro(before))
    assert list(item_scores(after)) == [item.id for item in shuffled_items]


# Bootstrap -------------------------------------------------------------------------------------

PAIRS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40)
SEEDS = st.integers(0, 2**32 - 1)


@quick
@given(st.lists(st.floats(0, 1), min_size=1), SEEDS)
def test_a_model_gains_nothing_over_itself(scores, seed):
    assert bootstrap_gain(scores, scores, resamples=50, seed=seed) == (0, 0, 0)


@quick
@given(PAIRS, SEEDS)
def test_exchanging_the_models_turns_the_gain_around(pairs, seed):
    a, b = map(list, zip(*pairs, strict=True))
    mean, low, high = bootstrap_gain(a, b, resamples=200, seed=seed)
    assert bootstrap_gain(b, a, resamples=200, seed=seed) == pytest.approx((-mean, -high, -low), abs=1e-12)


@quick
@given(PAIRS, SEEDS)
def test_the_interval_holds_the_mean_and_the_mean_is_that_of_the_differences(pairs, seed):
    a, b = map(list, zip(*pairs, strict=True))
    mean, low, high = bootstrap_gain(a, b, resamples=1000, seed=seed)
    assert mean == pytest.approx(fmean(b) - fmean(a), abs=1e-12)
    assert low - 1e-12 <= mean <= high + 1e-12


def test_the_interval_is_that_of_the_normal_approximation_where_it_holds():
    rng = np.random.default_rng(0)
    a = rng.random(400)
    b = a + rng.normal(0.02, 0.1, 400)
    mean, low, high = bootstrap_gain(a, b, resamples=4000, seed=1)
    half = 1.96 * np.std(b - a) / 20
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_pairing_takes_out_how_hard_the_items_are():
    hardness = np.linspace(0, 1, 100)
    _, low, high = bootstrap_gain(hardness, hardness + 0.01, resamples=500, seed=0)
    assert (low, high) == pytest.approx((0.01, 0.01))


def test_the_interval_depends_on_no_chunking(monkeypatch):
    a, b = np.random.default_rng(0).random((2, 37))
    whole = bootstrap_gain(a, b, resamples=500, seed=3)
    monkeypatch.setattr(bootstrap, "_CHUNK", 37 * 7)
    assert bootstrap_gain(a, b, resamples=500, seed=3) == whole
    assert bootstrap_gain(a, b, resamples=500, seed=4) != whole


@pytest.mark.parametrize(("a", "b", "resamples"), [([], [], 9), ([1], [1, 0], 9), ([1], [1], 0)])
def test_scores_that_are_not_pairs_are_refused(a, b, resamples):
    with pytest.raises(ValueError, match=r"scores|resamples"):
        bootstrap_gain(a, b, resamples=resamples, seed=0)


GROUPS = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=30)


@quick
@given(GROUPS, SEEDS)
def test_the_mean_over_items_of_several_scores_is_that_over_scores(groups, seed):
    sums, counts = [sum(group) for group in groups], [len(group) for group in groups]
    mean, low, high = bootstrap_mean(sums, counts, resamples=1000, seed=seed)
    assert mean == pytest.approx(fmean(score for group in groups for score in group), abs=1e-12)
    means = [fmean(group) for group in groups]
    assert min(means) - 1e-12 <= low <= high <= max(means) + 1e-12


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), SEEDS)
def test_one_score_per_item_is_the_gain_over_a_model_that_scores_0(scores, seed):
    gain = bootstrap_gain([0] * len(scores), scores, resamples=200, seed=seed)
    assert bootstrap_mean(scores, resamples=200, seed=seed) == pytest.approx(gain, abs=1e-12)


def test_scores_that_come_in_groups_are_less_certain_than_as_many_alone():
    rng = np.random.default_rng(0)
    items = rng.integers(0, 2, 100)  # an item's ten questions are right or wrong together
    _, low, high = bootstrap_mean(items * 10, [10] * 100, resamples=2000, seed=0)
    _, alone_low, alone_high = bootstrap_mean(np.repeat(items, 10), resamples=2000, seed=0)
    assert high - low == pytest.approx(np.sqrt(10) * (alone_high - alone_low), rel=0.15)


@pytest.mark.parametrize(("sums", "counts"), [([], []), ([1], [1, 1]), ([1, 1], [1, 0])])
def test_sums_without_their_counts_are_refused(sums, counts):
    with pytest.raises(ValueError, match="sums of scores and their counts"):
        bootstrap_mean(sums, counts, resamples=9, seed=0)


# Over training seeds, too


# Summaries -------------------------------------------------------------------------------------


def test_the_summary_holds_every_model_and_every_pair_by_name():
    worse = score_answers([CHAIN, LONE], rows(CHAIN, q1="no", q2="no", q3="no") + rows(LONE, q1="no"))
    better = score_answers([CHAIN, LONE], rows(CHAIN, q1="yes", q2="yes", q3="no") + rows(LONE, q1="no"))
    models = {"base": worse, "x": better, "y": better, "z": worse}
    summary = summarise(models, [("y", "base"), ("z", "x")], resamples=100, seed=0)
    assert (summary["n_prompts"], summary["images_per_prompt"]) == (2, 1)
    means = {name: found["mean"] for name, found in summary["models"].items()}
    assert means == {"base": 0.5, "x": 0.8333, "y": 0.8333, "z": 0.5}
    assert summary["models"]["base"] == {
        "mean": 0.5,
        "low": 0.0,
        "high": 1.0,
        "micro": 0.25,
        "no_dependencies": 0.5,
    }
    assert summary["gains"] == {
        "y over base": {"mean": 0.3333, "low": 0.0, "high": 0.6667},
        "z over x": {"mean": -0.3333, "low": -0.6667, "high": 0.0},
    }
    assert {"model": "y", "skill": "s", "score": 0.6667} in skill_rows(models)
    assert {"model": "base", "category": "object", "score": 0.5} in category_rows(models)


def test_models_with_other_numbers_of_images_are_not_compared():
    one = score_answers([LONE], rows(LONE, q1="no"))
    two = score_answers([LONE], rows(LONE, q1="no") + rows(LONE, 1, q1="no"))
    with pytest.raises(UserError, match="base 1, merged 2"):
        summarise({"base": one, "merged": two}, [], resamples=10, seed=0)
