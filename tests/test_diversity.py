"""The filter keeps what `rouge_score` would keep, float for float."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from random import Random
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from selma.prompts import index as index_module
from selma.prompts import keys, near
from selma.prompts.diversity import DiversityFilter, Verdict
from selma.prompts.encoding import Vocabulary
from selma.prompts.index import RougeIndex
from selma.prompts.rouge import fmeasure, needed_lcs, rouge_l

WORDS = ("a", "red", "blue", "circle", "square", "left", "of", "on", "black", "x1")
PEER = RougeScorer(["rougeL"])
LOOSE = 10**9  # a word limit that nothing reaches

prompts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
thresholds = st.sampled_from((0.0, 0.25, 0.5, 2 / 3, 0.75, 0.8, 0.9, 1.0))


def peer(a: str, b: str) -> float:
    return PEER.score(a, b)["rougeL"].fmeasure


def keep(candidates, threshold=0.8, exam=(), seeds=(), max_words=LOOSE):
    diversity = DiversityFilter(threshold, max_words, exam, seeds)
    verdicts = diversity.judge(candidates)
    return [text for text, verdict in zip(candidates, verdicts, strict=True) if verdict.kept]


def judge(diversity: DiversityFilter, text: str) -> Verdict:
    (verdict,) = diversity.judge([text])
    return verdict


def naive(candidates: list[str], threshold: float) -> list[str]:
    kept: list[str] = []
    for text in candidates:
        if all(peer(other, text) <= threshold for other in kept):
            kept.append(text)
    return kept


@contextlib.contextmanager
def sizes(few: int, key: int) -> Iterator[None]:
    """Keys from `few` texts on, `key` of a text at most, and whatever they find is verified."""
    with (
        mock.patch("selma.prompts.diversity._FIRST", 5),
        mock.patch.multiple(index_module, _FEW=few, _SMALL=1, _CROWDED=8),
        mock.patch.multiple(near, _DEARER=0.0, _AT_ONCE=16, _MATRIX=7, _LOOKED_UP=20),
        mock.patch.multiple(keys, _KEYS=key, _ROWS=3),
    ):
        keys._plan.cache_clear(), keys._size.cache_clear()
        yield
    keys._plan.cache_clear(), keys._size.cache_clear()


@given(prompts, prompts)
def test_value_is_rouge_scores_to_the_last_bit(a, b):
    assert rouge_l(a, b) == peer(a, b) == rouge_l(b, a)


def test_value_is_rouge_scores_for_every_length_and_overlap():
    for m in range(1, 13):
        for n in range(1, 13):
            for lcs in range(1, min(m, n) + 1):
                target = " ".join(["same"] * lcs + ["other"] * (m - lcs))
                prediction = " ".join(["same"] * lcs + ["else"] * (n - lcs))
                assert fmeasure(lcs, m, n) == peer(target, prediction)


def test_a_tie_falls_as_rouge_score_rounds_it():
    near, far = "a b c d x", "a b c d y"  # 4 of 5 and 5: 0.8000000000000002 in floats, 0.8 on paper
    assert peer(near, far) > 0.8
    assert keep([near, far]) == [near]


@given(st.integers(1, 40), st.integers(1, 40), thresholds)
def test_needed_lcs_is_the_first_above_the_threshold(m, n, threshold):
    above = [lcs for lcs in range(1, min(m, n) + 1) if fmeasure(lcs, m, n) > threshold]
    assert min(int(needed_lcs(m, n, threshold)), min(m, n) + 1) == (above or [min(m, n) + 1])[0]


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0, 1))
def test_needed_lcs_parts_what_is_above_from_what_is_not(m, n, threshold):
    needed = int(needed_lcs(m, n, threshold))
    assert needed == 1 or fmeasure(needed - 1, m, n) <= threshold
    assert needed > min(m, n) or fmeasure(needed, m, n) > threshold


@given(st.lists(prompts, max_size=25), thresholds)
def test_keeps_the_same_prompts_as_a_naive_filter(candidates, threshold):
    assert keep(candidates, threshold) == naive(candidates, threshold)


@given(st.lists(prompts, max_size=30), thresholds, st.sampled_from((0, 3, 12)), st.sampled_from((1, 6, 64)))
@example(["a b c d x", "a b c d y"] * 2, 0.8, 0, 64)
@example(["a a a b", "a a b", "b a a a", "", "a"] * 3, 0.75, 0, 64)
def test_keys_find_all_that_a_naive_filter_finds(candidates, threshold, few, key):
    with sizes(few, key):
        assert keep(candidates, threshold) == naive(candidates, threshold)


@given(prompts, st.lists(prompts, max_size=15), thresholds, st.booleans())
def test_nearest_is_the_highest_and_of_equals_the_first(text, others, threshold, by_key):
    with sizes(0 if by_key else 100, 64):
        index, vocabulary = RougeIndex(threshold), Vocabulary()
        for some in (others[:9], others[9:]):
            index.add([vocabulary.encode(other) for other in some])
        found = index.nearest([vocabulary.encode(text)])
    scores = [peer(other, text) for other in others]
    best = max(scores, default=0.0)
    expected = (scores.index(best), best) if best > threshold else (-1, 0.0)
    assert (int(found.rank[0]), float(found.rouge_l[0])) == expected


def similar(rng: Random, count: int, length: int) -> list[str]:
    """Texts of about one length, each with a few words other than those of one of three."""
    words = [f"w{i}" for i in range(400)]
    bases = [[rng.choice(words) for _ in range(length)] for _ in range(3)]
    made = []
    for _ in range(count):
        text = list(rng.choice(bases))
        for _ in range(rng.randrange(length // 3)):
            text[rng.randrange(len(text))] = rng.choice(words)
        made.append(" ".join(text[rng.randrange(3) :]))
    return made


@pytest.mark.parametrize("length", [25, 70, 240, 501, 600])
def test_keys_find_all_among_long_texts(length):
    """Where a text may lack more tokens than a key counts, or is too long to have keys."""
    texts = similar(Random(length), 60, length)
    expected: list[str] = []
    for text in texts:
        if all(rouge_l(text, other) <= 0.8 for other in expected):
            expected.append(text)
    assert 3 < len(expected) < 60
    assert keep(texts) == expected
    with sizes(0, 64):
        assert keep(texts) == expected


def test_keys_find_what_shares_common_words_only():
    """The rarest words of both, more than a key counts, are those that the other lacks."""
    common = [f"c{i}" for i in range(200)]
    first, second = ([*common, *(f"{name}{i}" for i in range(40))] for name in "xy")
    texts = [" ".join(common[i : i + 40]) for i in range(0, 200, 40)] * 2 + [
        " ".join(first),
        " ".join(second),
    ]
    assert 0.8 < rouge_l(*texts[-2:]) < 0.85
    with sizes(0, 64):
        assert keep(texts) == [*texts[:5], texts[-2]]


def test_many_prompts_are_filtered_as_few_are():
    """The sizes at which keys are really made, and the texts of few tokens that need none."""
    rng = Random(1)
    texts = [" ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 25))) for _ in range(9000)]
    found = keep(texts, 0.9)
    assert len(found) > 5000
    with mock.patch.object(index_module, "_FEW", 10**6):
        assert keep(texts, 0.9) == found


def test_tokens_for_which_there_is_no_character_are_compared_by_number():
    texts = ["a b c d e f", "a b c d e g", "h i j k", "h i j k", "a b c d e"]
    with mock.patch("selma.prompts.encoding._CHARACTERS", 8):
        assert keep(texts) == keep(texts, seeds=["z"]) == naive(texts, 0.8)
    with mock.patch("selma.prompts.encoding._CHARACTERS", 8), sizes(0, 64):
        assert keep(texts) == naive(texts, 0.8)


@given(st.lists(prompts, max_size=12), st.lists(prompts, max_size=12))
def test_blocks_change_no_verdict(first, second):
    at_once = DiversityFilter(0.8, LOOSE, [], [])
    by_one = DiversityFilter(0.8, LOOSE, [], [])
    assert list(at_once.judge([*first, *second])) == [judge(by_one, text) for text in (*first, *second)]


@given(
    prompts, st.lists(prompts, max_size=15), st.lists(prompts, max_size=5), st.randoms(use_true_random=False)
)
def test_order_of_references_does_not_change_a_verdict(text, seeds, exam, rng: Random):
    shuffled = rng.sample(seeds, len(seeds))
    a = judge(DiversityFilter(0.8, LOOSE, exam, seeds), text)
    b = judge(DiversityFilter(0.8, LOOSE, reversed(exam), shuffled), text)
    assert (a.reason, a.rouge_l) == (b.reason, b.rouge_l)


@given(prompts.filter(bool), st.lists(prompts, max_size=10))
def test_a_duplicate_is_always_dropped(text, others):
    diversity = DiversityFilter(0.8, LOOSE, [], others)
    judge(diversity, text)
    verdict = judge(diversity, text.upper() + "!")  # tokens have no case and no punctuation
    assert verdict.reason == "similar"


@given(st.lists(prompts, max_size=15))
def test_at_threshold_one_only_length_drops(candidates):
    assert keep(candidates, 1.0, max_words=6) == [text for text in candidates if len(text.split()) <= 6]


def test_reasons_and_neighbours():
    diversity = DiversityFilter(0.8, 6, exam=["two red circles on black"], seeds=["one blue square on white"])
    long = judge(diversity, "three small yellow triangles on a black background")
    exam = judge(diversity, "Two red circles on black.")
    seed = judge(diversity, "one blue square on white")
    first = judge(diversity, "a purple cross above it")
    again = judge(diversity, "a purple cross above it all")

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
    exam = ["two red circles on a black background", "赤い丸", "..."]
    near = "two red circles on a white background"  # F = 6/7
    assert keep(["Two  red circles on a black background", near, "赤い丸", "..."], threshold, exam) == []


@pytest.mark.parametrize(
    ("exam", "near", "apart"),
    [
        ("一只红色的猫坐在桌子上", "一只红色的狗坐在桌子上", "三个蓝色的球在草地上"),
        ("два красных круга на черном фоне", "Два красных круга на белом фоне.", "один синий квадрат слева"),
        ("ＡＢＣ　赤い丸", "abc 赤い丸", "abc 青い星"),
        ("🐶🐱🐭🐹🐰🦊", "🐶🐱🐭🐹🐰🐻", "🍎🍊🍋🍌🍉🍇"),
        ("قطة حمراء كبيرة على الطاولة", "قطة حمراء كبيرة على الطاولة!", "كلب أزرق في الحديقة"),
        ("un café noir sur une table à côté", "Un cafe\u0301 noir sur une table a\u0300 côté", "trois cafés"),
    ],
)
def test_the_exam_is_guarded_in_every_script(exam, near, apart):
    diversity = DiversityFilter(1.0, LOOSE, [exam], [])
    verdict = judge(diversity, near)
    assert (verdict.reason, verdict.neighbour) == ("exam", exam) and verdict.rouge_l > 0.8
    assert judge(diversity, apart).kept
    assert keep([exam, near, apart]) == [exam, apart]
