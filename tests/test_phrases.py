"""Noun phrases by rules: what they find in captions of the embedded world, and in other English."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selma.ground.errors import UserError
from selma.images import parsers
from selma.images.phrases import noun_phrases
from selma.shapes.world.language import STYLES, describe, plural
from selma.shapes.world.scene import NUMBERS, SHAPES, sample_scene


def read(text):
    """[(phrase, noun, modifiers)] in words."""
    return [
        (
            text[slice(*phrase.span)],
            text[slice(*phrase.noun)],
            [text[slice(*span)] for span in phrase.modifiers],
        )
        for phrase in noun_phrases(text)
    ]


@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(("single", "pair", "count")),
    style=st.sampled_from(STYLES),
    drop=st.sampled_from((0.0, 0.5)),
)
def test_they_find_what_a_caption_says_of_its_shapes(seed, kind, style, drop):
    """Every style: each shape with its colour and size and nothing else, its number, and the background's colour."""
    rng = Random(seed)
    text, facts = describe(rng, sample_scene(rng, kind, 0.3, tuple(NUMBERS)), style, drop)
    shapes = {form: shape for shape in SHAPES for form in (shape, plural(shape))}
    found = [
        (phrase, shapes[noun], set(modifiers)) for phrase, noun, modifiers in read(text) if noun in shapes
    ]
    said = [(shape, {word for word in (size, color) if word}) for color, shape, size in facts.things]
    assert sorted((shape, modifiers - {"separate"}) for _, shape, modifiers in found) == sorted(said), text
    if facts.number:
        assert found[0][0].startswith(NUMBERS[facts.number])
    if facts.background and ("background" in text or "backdrop" in text):
        grounds = [modifiers for _, noun, modifiers in read(text) if noun in ("background", "backdrop")]
        assert [facts.background] in grounds or "we can see plain" in text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("above, and below it", []),
        ("red", []),
        (
            "a red car and a white sheep",
            [("a red car", "car", ["red"]), ("a white sheep", "sheep", ["white"])],
        ),
        ("A Red Car", [("A Red Car", "Car", ["Red"])]),
        ("red and blue balls", [("red and blue balls", "balls", ["red", "blue"])]),
        ("a small, red ball", [("a small, red ball", "ball", ["small", "red"])]),
        (
            "the cat on the mat is black and white",
            [("the cat", "cat", ["black", "white"]), ("the mat", "mat", [])],
        ),
        (
            "a photo of a car that is red",
            [("a photo", "photo", []), ("a car", "car", ["red"])],
        ),
        ("a dog chases a red ball", [("a dog", "dog", []), ("a red ball", "ball", ["red"])]),
        ("a brown dog sitting on a bench", [("a brown dog", "dog", ["brown"]), ("a bench", "bench", [])]),
        ("a red building", [("a red building", "building", ["red"])]),
        ("3 green apples", [("3 green apples", "apples", ["green"])]),
        ("the sky is very blue.", [("the sky", "sky", ["blue"])]),
    ],
)
def test_they_read_other_english(text, found):
    assert read(text) == found


WORDS = ("a", "red", "the", "is", "that", "and", "of", "ball", "very", ",", ".", "3", "café-au-lait", "left")


@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_has_phrases_apart_from_each_other_that_hold_their_noun(text):
    end = 0
    for phrase in noun_phrases(text):
        assert end <= phrase.span[0] <= phrase.noun[0] < phrase.noun[1] <= phrase.span[1] <= len(text)
        end = phrase.span[1]
        assert len({phrase.noun, *phrase.modifiers}) == 1 + len(phrase.modifiers)


def token(i, text, at, dep, children=(), conjuncts=(), head=None):
    return SimpleNamespace(
        i=i, idx=at, text=text, dep_=dep, children=children, conjuncts=conjuncts, head=head
    )


def test_spacys_chunk_takes_what_modifies_its_noun():
    """As spaCy reads "the large round sky is blue": adjectives before the noun, and behind `is`."""
    large, round_ = token(1, "large", 4, "amod"), token(2, "round", 10, "amod")
    the, blue = token(0, "the", 0, "det"), token(5, "blue", 23, "acomp")
    sky = token(3, "sky", 16, "nsubj", [the, large, round_], head=token(4, "is", 20, "ROOT", [blue]))
    found = parsers.phrase_of(SimpleNamespace(root=sky, start_char=0, end_char=19))
    assert (found.span, found.noun) == ((0, 19), (16, 19))
    assert found.modifiers == ((4, 9), (10, 15), (23, 27))


def test_without_spacy_its_parser_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(UserError, match=r"parser: spacy is not there.*set parser to rules"):
        parsers.parse(["a red circle"], "spacy")
