"""The oracle is right on true and on false facts, by skill and by category, also through blur."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from selma.ground.errors import UserError
from selma.ground.items import Question
from selma.shapes.reading.oracle import Oracle
from selma.shapes.reading.vision import _distance, _squares, read_picture
from selma.shapes.world.exam import exam_scene
from selma.shapes.world.language import STYLES, describe
from selma.shapes.world.questions import make_questions, parse_question
from selma.shapes.world.render import draw_scene
from selma.shapes.world.scene import BACKGROUNDS, COLORS, NUMBERS, RELATIONS, SHAPES, Scene, Thing


def _ask(number_of_images: int, seed: int, blur: float = 0.0):
    """(skill, category, answered yes) for every question about pictures of which all facts are true."""
    rng, oracle = Random(seed), Oracle()
    for index in range(number_of_images):
        skill = STYLES[index % len(STYLES)]
        scene = exam_scene(rng, skill, many=0.2)
        _, facts = describe(rng, scene, skill)
        image = draw_scene(rng, scene).filter(ImageFilter.GaussianBlur(blur))
        questions = make_questions(facts)
        for question, answer in zip(questions, oracle.answer(image, questions), strict=True):
            yield skill, question.category, answer.answer == "yes"


def test_at_least_99_percent_right_on_renders_over_5000_questions():
    by_skill, by_category = defaultdict(list), defaultdict(list)
    for skill, category, yes in _ask(1000, seed=0):
        by_skill[skill].append(yes)
        by_category[category].append(yes)
    assert sum(map(len, by_skill.values())) >= 5000
    assert set(by_skill) == set(STYLES)
    assert set(by_category) == {"object", "color", "size", "count", "count_many", "relation", "background"}
    for name, answers in (by_skill | by_category).items():
        assert sum(answers) / len(answers) >= 0.99, name


def test_blur_as_strong_as_the_models_own_is_no_problem():
    answers = [yes for _, _, yes in _ask(200, seed=1, blur=1.3)]
    assert sum(answers) / len(answers) >= 0.99


def _pair(relation: str) -> Scene:
    return Scene("pair", (Thing("red", "circle"), Thing("blue", "square")), "white", relation)


def _says(scene: Scene, text: str) -> bool:
    question = Question("1", text, ("yes", "no"), "yes", (), "any")
    return Oracle().answer(draw_scene(Random(4), scene), [question])[0].answer == "yes"


@pytest.mark.parametrize("relation", RELATIONS)
def test_of_four_relations_exactly_one_holds(relation):
    words = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
    held = [
        name for name, text in words.items() if _says(_pair(relation), f"Is the circle {text} the square?")
    ]
    assert held == [relation]


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_of_all_colors_and_shapes_exactly_the_drawn_one_is_seen(color, shape, background):
    scene = Scene("single", (Thing(color, shape),), background)
    assert [c for c in COLORS if _says(scene, f"Is the {shape} {c}?")] == [color]
    assert [s for s in SHAPES if _says(scene, f"Is there a {s}?")] == [shape]
    assert [b for b in BACKGROUNDS if _says(scene, f"Is the background {b}?")] == [background]


@pytest.mark.parametrize("number", NUMBERS)
def test_of_all_counts_exactly_the_drawn_one_is_seen(number):
    scene = Scene("count", (Thing("green", "triangle", "small"),), "black", number=number)
    seen = [n for n in NUMBERS if _says(scene, f"Are there exactly {NUMBERS[n]} triangles?")]
    assert seen == [number]


def test_swapped_colors_are_wrong_for_both_things():
    swapped = replace(_pair("left"), things=(Thing("blue", "circle"), Thing("red", "square")))
    assert not _says(swapped, "Is the circle red?")
    assert not _says(swapped, "Is the square blue?")


def test_an_empty_picture_and_noise_hold_nothing():
    assert read_picture(Image.new("RGB", (64, 64), BACKGROUNDS["white"])).blobs == ()
    noise = Image.effect_noise((64, 64), 120).convert("RGB")
    assert not [blob for blob in read_picture(noise).blobs if "unknown" not in (blob.shape, blob.color)]


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1), st.tuples(*[st.integers(0, 510)] * 3))
def test_distances_of_colors_are_numpys_own_to_the_bit(colors, doubled):
    colors, color = np.array(colors, np.float32), np.array(doubled, np.float32) / 2  # medians may be halves
    assert (_distance(colors, color) == np.linalg.norm(colors - color, axis=-1)).all()
    exact = ((colors.astype(int) * 2 - np.array(doubled)) ** 2).sum(-1)
    assert (_squares(colors, color) * 4 == exact).all()


def test_pictures_of_another_size_are_read_too():
    image = draw_scene(Random(0), _pair("left")).resize((256, 256), Image.Resampling.BICUBIC)
    assert {(blob.color, blob.shape) for blob in read_picture(image).blobs} == {
        ("red", "circle"),
        ("blue", "square"),
    }


def test_a_question_it_cannot_read_is_an_error_that_names_it():
    with pytest.raises(UserError, match="Is the dog happy"):
        _says(_pair("left"), "Is the dog happy?")


def test_every_question_made_is_read_back():
    rng = Random(3)
    for index in range(300):
        skill = STYLES[index % len(STYLES)]
        for question in make_questions(describe(rng, exam_scene(rng, skill, many=0.2), skill)[1]):
            kind, _ = parse_question(question.text)
            assert kind == {"object": "exists", "count_many": "count"}.get(
                question.category, question.category
            )
