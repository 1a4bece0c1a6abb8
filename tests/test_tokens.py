"""Prompts are compared by `rouge_score`'s tokens, and by Unicode's where those would lose a letter."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from selma.prompts.rouge import rouge_l
from selma.prompts.tokens import is_plain, tokens, unicode_tokens


@given(st.text(st.characters(max_codepoint=127)))
@example("It's 3.5 m, snake_case\x1cA\tB\n")
def test_ascii_is_read_as_rouge_score_reads_it(text):
    assert is_plain(text)
    assert tokens(text) == unicode_tokens(text) == DefaultTokenizer().tokenize(text)


@given(st.text(st.characters(max_codepoint=127) | st.characters(categories=["P", "Z", "Sc", "Sm", "Cc"])))
@example("It’s a “red” dog—yes… 5° ©")
def test_punctuation_of_any_script_is_none_the_less_plain(text):
    assert is_plain(text)
    assert tokens(text) == DefaultTokenizer().tokenize(text)


@given(st.text())
def test_a_text_that_is_not_plain_has_what_rouge_score_cannot_see(text):
    assert is_plain(text) or not text.isascii()
    assert all(tokens(text)) and not any(char.isspace() for token in tokens(text) for char in token)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Un café naïf", ["un", "café", "naïf"]),
        ("schön oder schon", ["schön", "oder", "schon"]),
        ("Красный КРУГ, слева", ["красный", "круг", "слева"]),
        ("قطة على الطاولة", ["قطة", "على", "الطاولة"]),
        ("नीली गेंद", ["नीली", "गेंद"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("빨간 사과", ["빨간", "사과"]),
        ("一只红猫。", ["一", "只", "红", "猫"]),
        ("3只cat", ["3", "只", "cat"]),
        ("赤いリンゴ", ["赤", "い", "リ", "ン", "ゴ"]),
        ("แมวสี่ตัว", ["แ", "ม", "ว", "สี่", "ตั", "ว"]),
        ("a dog 🐶❤️", ["a", "dog", "🐶", "❤"]),
        ("👩🏽\u200d🚀", ["👩🏽", "🚀"]),
        ("🐶—cat", ["🐶", "cat"]),
        ("°C ™ ②", ["c", "2"]),
    ],
)
def test_scripts(text, expected):
    assert not is_plain(text)
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cafe\u0301 noir", "CAFÉ NOIR"),  # decomposed and upper case
        ("Ｒｅｄ　ｃａｔ　１", "red cat 1"),  # full width
        ("ｶﾞﾗｽ", "ガラス"),  # half width
        ("Große STRASSE", "GROSSE straße"),
        ("ΟΔΟΣ", "οδος"),
        ("ﬁg ﬂag", "fig flag"),
        ("❤️ love", "❤ love"),  # with emoji style
        ("⽔", "水"),  # a radical
    ],
)
def test_spellings_of_one_text_are_one(one, other):
    assert tokens(one) == tokens(other)


@pytest.mark.parametrize(
    "pair", [("schön", "schon"), ("й", "и"), ("は", "ば"), ("👍🏻", "👍🏿"), ("👍", "👍🏿")]
)
def test_marks_tell_tokens_apart(pair):
    assert tokens(pair[0]) != tokens(pair[1])


def test_an_emoji_is_one_token_more():
    assert rouge_l("a red cat on a mat", "a red cat on a mat 🐱") == pytest.approx(12 / 13)
    assert rouge_l("🐱", "🐶") == 0
