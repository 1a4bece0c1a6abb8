"""Captions of the shapes world are read back into their facts, and asked about."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selma.prompts.collecting import collect
from selma.prompts.provider import load_provider
from selma.prompts.skills import load_skill
from selma.runtime.params import load_params
from selma.shapes.reading.oracle import Oracle
from selma.shapes.world.language import Facts, describe, plural
from selma.shapes.world.questions import make_questions
from selma.shapes.world.reader import read_caption
from selma.shapes.world.render import draw_scene
from selma.shapes.world.scene import INVERSE, NUMBERS, Scene, sample_scene
from selma.shapes.world.writer import KINDS, Writer

ROOT = Path(__file__).parents[1]

captions = {
    "seed": st.integers(0, 2**32),
    "kind": st.sampled_from(("single", "pair", "count")),
    "style": st.sampled_from(tuple(KINDS)),
    "drop": st.sampled_from((0.0, 0.0, 0.5, 1.0)),
}


def caption(seed: int, kind: str, style: str, drop: float = 0.0) -> tuple[Scene, str, Facts]:
    rng = Random(seed)
    scene = sample_scene(rng, kind, 0.3, tuple(NUMBERS))
    return scene, *describe(rng, scene, style, drop)


def turned(facts: Facts) -> Facts:
    """The same said from the other thing."""
    return Facts(
        facts.things[::-1], facts.relation and INVERSE[facts.relation], facts.number, facts.background
    )


@settings(max_examples=3000)
@given(**captions)
def test_a_caption_is_read_back_into_its_facts(seed: int, kind: str, style: str, drop: float) -> None:
    """Equal, or equal from the other thing: the one that the text names first comes first."""
    _, text, facts = caption(seed, kind, style, drop)
    read = read_caption(text)
    places = [text.index(shape) for _, shape, _ in facts.things]
    assert read == (facts if places == sorted(places) else turned(facts)), text


@settings(max_examples=300)
@given(**captions)
def test_an_image_of_the_scene_answers_every_question_with_yes(
    seed: int, kind: str, style: str, drop: float
) -> None:
    """The oracle reads every question; it errs on a few images in a thousand, so a wrong one is drawn again."""
    scene, text, _ = caption(seed, kind, style, drop)
    questions = list(make_questions(read_caption(text)))
    images = (draw_scene(Random(f"{seed}:{k}"), scene) for k in range(4))
    assert any(all(one.answer == "yes" for one in Oracle().answer(image, questions)) for image in images), (
        text
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "data/skills/shapes").glob("*.yaml")))
def test_every_prompt_that_is_trained_on_is_read_and_its_questions_are_the_oracles(name: str) -> None:
    """What the prompts stage collects of each skill that ships; nothing is trained on its seeds."""
    params = load_params(ROOT / "params.yaml")
    skill = load_skill(ROOT / params.prompts.skills, name)
    arriving = collect(skill, load_provider(params.llm), seed=params.seed, n=20, examples=3, requests=5)
    texts = [row["text"] for row in islice(arriving, params.prompts.candidates)]
    for text in texts:
        questions = make_questions(read_caption(text))
        assert questions
        Oracle().check(questions)


SAID = {  # what people say of a picture, and what no caption of this world says
    "": "nothing",
    "a red circle to the left of": "half a caption",
    "a red circle on the left and a blue square on the left": "two places that cannot be",
    "a red circle above a blue circle": "two things of one shape",
    "a red star": "another shape",
    "a pink circle": "another colour",
    "an red circle": "a wrong article",
    "two red circle": "a wrong number",
    "one red circles": "a wrong number",
    "there is three red circles": "a wrong verb",
    "there are six red circles": "another number",
    "red circle, blue square": "no style",
    "flat design, poster": "nothing but style",
    "red circle left, blue square left, poster": "two places that cannot be",
    "red circle left, blue square, poster": "one place of two",
    "red circle left, poster": "a place of nothing else",
    "red circle, white background, black background, poster": "two backgrounds",
    "two red circles, blue square, poster": "a number and another thing",
    "red circle, poster, blurry": "an unknown tag",
    "in this image there is a red circle": "no full stop",
    "in this image there is a red circle. it is raining.": "an unknown sentence",
    "a dog on a lawn": "another world",
}


@pytest.mark.parametrize("text", SAID, ids=SAID.get)
def test_what_is_no_caption_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read the caption"):
        read_caption(text)


@given(**captions, data=st.data())
def test_a_caption_that_lost_its_shape_is_refused(
    seed: int, kind: str, style: str, drop: float, data: st.DataObject
) -> None:
    _, text, facts = caption(seed, kind, style, drop)
    shape = data.draw(st.sampled_from([shape for _, shape, _ in facts.things]))
    with pytest.raises(ValueError):
        read_caption(text.replace(plural(shape), "things").replace(shape, "thing"))


def test_the_writer_asks_about_the_last_prompt_and_refuses_one_of_another_world() -> None:
    request = "Prompt: a dog\n{}\n\nPrompt: a red circle above a blue square\n\nReply with JSON."
    said = {Writer().reply(request, seed) for seed in range(20)}
    assert len(said) > 1, "some replies are fenced"
    assert all('"Is the circle above the square?"' in text and reason == "stop" for text, reason in said)
    text, _ = Writer().reply("Prompt: a red circle\n\nPrompt: a dog\n\n", 0)
    assert "questions" not in text
