"""The filter keeps what `rouge_score` would keep, float for float."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from selma.prompts.diversity import DiversityFilter
from selma.prompts.rouge import RougeIndex, Vocabulary, fmeasure, needed_lcs, rouge_l, tokens

WORDS = ("a", "red", "blue", "circle", "square", "left", "of", "on", "black", "x1")
PEER = RougeScorer(["rougeL"])
LOOSE = 10**9  # a word limit that nothing reaches

prompts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
thresholds = st.sampled_from((0.0, 0.25, 0.5, 2 / 3, 0.75, 0.8, 0.9, 1.0))


def peer(a: str, b: str) -> float:
    return PEER.score(a, b)["rougeL"].fmeasure


def keep(candidates, threshold=0.8, exam=(), seeds=(), max_words=LOOSE):
    diversity = DiversityFilter(threshold, max_words, exam, seeds)
    return [text for text in candidates if diversity.offer(text).kept]


@given(st.text())
@example("It's 3.5 m, ein Großer İstanbul—naïve\n\uff21 \uff11 \u017f \u212a")
def test_tokens_are_rouge_scores(text):
    assert tokens(text) == DefaultTokenizer().tokenize(text)


@given(prompts, prompts)
def test_value_is_rouge_scores_to_the_last_bit(a, b):
    assert rouge_l(a, b) == peer(a, b) == rouge_l(b, a)


def test_value_is_rouge_scores_for_every_length_and_overlap():
    for m in range(1, 13):
        for n in range(1, 13):
            for lcs in range(min(m, n) + 1):
                target = " ".join(["same"] * lcs + ["other"] * (m - lcs))
                prediction = " ".join(["same"] * lcs + ["else"] * (n - lcs))
                assert fmeasure(lcs, m, n) == peer(target, prediction)


def test_a_tie_falls_as_rouge_score_rounds_it():
    near, far = "a b c d x", "a b c d y"  # 4 of 5 and 5: 0.8000000000000002 in floats, 0.8 on paper
    assert peer(near, far) > 0.8
    assert keep([near, far]) == [near]


@given(st.integers(1, 40), st.integers(1, 40), thresholds)
def test_needed_lcs_is_the_first_above_the_threshold(m, n, threshold):
    above = [lcs for lcs in range(min(m, n) + 1) if fmeasure(lcs, m, n) > threshold]
    assert needed_lcs(m, n, threshold) == (above[0] if above else None)


@given(st.lists(prompts, max_size=25), thresholds)
def test_keeps_the_same_prompts_as_a_naive_filter(candidates, threshold):
    naive: list[str] = []
    for text in candidates:
        if all(peer(other, text) <= threshold for other in naive):
            naive.append(text)
    assert keep(candidates, threshold) == naive


@given(prompts, st.lists(prompts, max_size=15), thresholds)
def test_nearest_is_the_highest_and_of_equals_the_first(text, others, threshold):
    index = RougeIndex(threshold, Vocabulary())
    for other in others:
        index.add(other)
    scores = [peer(other, text) for other in others]
    best = max(scores, default=0.0)
    expected = (others[scores.index(best)], best) if best > threshold else None
    assert index.nearest(text) == expected


@given(
    prompts, st.lists(prompts, max_size=15), st.lists(prompts, max_size=5), st.randoms(use_true_random=False)
)
def test_order_of_references_does_not_change_a_verdict(text, seeds, exam, rng: Random):
    shuffled = rng.sample(seeds, len(seeds))
    a = DiversityFilter(0.8, LOOSE, exam, seeds).offer(text)
    b = DiversityFilter(0.8, LOOSE, reversed(exam), shuffled).offer(text)
    assert (a.reason, a.rouge_l) == (b.reason, b.rouge_l)


@given(prompts.filter(bool), st.lists(prompts, max_size=10))
def test_a_duplicate_is_always_dropped(text, others):
    diversity = DiversityFilter(0.8, LOOSE, [], others)
    diversity.offer(text)
    verdict = diversity.offer(text.upper() + "!")  # tokens have no case and no punctuation
    assert verdict.reason == "similar"


@given(st.lists(prompts, max_size=15))
def test_at_threshold_one_only_length_drops(candidates):
    assert keep(candidates, 1.0, max_words=6) == [text for text in candidates if len(text.split()) <= 6]


def test_reasons_and_neighbours():
    diversity = DiversityFilter(0.8, 6, exam=["two red circles on black"], seeds=["one blue square on white"])
    long = diversity.offer("three small yellow triangles on a black background")
    exam = diversity.offer("Two red circles on black.")
    seed = diversity.offer("one blue square on white")
    first = diversity.offer("a purple cross above it")
    again = diversity.offer("a purple cross above it all")

    assert (long.reason, long.neighbour, long.rouge_l) == ("too_long", None, None)
    assert (exam.reason, exam.neighbour, exam.rouge_l) == ("exam", "two red circles on black", 1.0)
    assert (seed.reason, seed.neighbour) == ("similar", "one blue square on white")
    assert first.kept
    assert (again.reason, again.neighbour) == ("similar", "a purple cross above it")
    assert again.rouge_l == pytest.approx(10 / 11)


def test_a_dropped_prompt_is_no_reference():
    # b is near a and c near b, but c is not near a.
    a, b, c = "a b c d e f g h i j", "a b c d e f g h i x", "a b c d e f g z y x"
    assert keep([a, b, c]) == [a, c]


@pytest.mark.parametrize("threshold", [0.8, 0.9, 1.0])
def test_no_threshold_lets_the_exam_into_the_training_prompts(threshold):
    exam = ["two red circles on a black background", "赤い丸"]
    near = "two red circles on a white background"  # F = 6/7
    assert keep(["Two  red circles on a black background", near, "赤い丸"], threshold, exam) == []
