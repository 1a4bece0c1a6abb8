"""The shapes world's exam, corpus, language and its stand-in for an LLM."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from random import Random

import numpy as np
import pytest

from selma.prompts.replies import parse_list
from selma.prompts.request import request_text
from selma.prompts.rouge import rouge_l
from selma.prompts.skills import load_skill
from selma.shapes.pretraining.corpus import make_corpus
from selma.shapes.world.exam import make_exam
from selma.shapes.world.language import STYLES, describe
from selma.shapes.world.scene import RARE, sample_scene
from selma.shapes.world.writer import KINDS, Writer, read_style

SKILLS = Path("data/skills/shapes")
LIMITS = {"objects": 30, "paragraph": 50, "tags": 50, "count": 30, "counterfactual": 30}


@pytest.mark.parametrize("style", STYLES)
def test_captions_name_every_fact_they_claim_and_stay_within_the_word_limit(style):
    rng = Random(0)
    for _ in range(300):
        scene = sample_scene(rng, rng.choice(KINDS[style]), rare=0.2)
        text, facts = describe(rng, scene, style)
        words = set(re.findall(r"[a-z]+", text))
        for color, shape, size in facts.things:
            assert color in words and (shape in words or any(w.startswith(shape) for w in words))
            assert size is None or size in words
        assert facts.background is None or facts.background in words
        assert len(text.split()) <= LIMITS[style]


def test_careless_captions_leave_facts_out_and_do_not_claim_them():
    rng = Random(1)
    scene = sample_scene(rng, "pair")
    left_out = [describe(rng, scene, "objects", drop=1.0) for _ in range(20)]
    for text, facts in left_out:
        assert facts.relation is None and all(color is None for color, _, _ in facts.things)
        assert not any(thing.color in text.split() for thing in scene.things)


def test_exam_splits_are_disjoint_reproducible_and_of_the_size_asked_for():
    exam = make_exam(7, dev_per_skill=12, test_per_skill=20)
    assert exam == make_exam(7, dev_per_skill=12, test_per_skill=20)
    assert {split: len(items) for split, items in exam.items()} == {"dev": 60, "test": 100}
    prompts = [item.prompt for items in exam.values() for item in items]
    assert len(set(prompts)) == len(prompts)
    assert {item.skill for item in exam["test"]} == set(STYLES)
    for item in exam["test"]:
        assert max(rouge_l(item.prompt, other.prompt) for other in exam["dev"]) <= 0.8


def test_exam_questions_hang_on_the_existence_of_what_they_speak_of():
    for item in make_exam(0, dev_per_skill=1, test_per_skill=30)["test"]:
        objects = {q.id for q in item.questions if q.category == "object"}
        for question in item.questions:
            if question.category in ("object", "background"):
                assert question.parents == ()
            else:
                assert question.parents and set(question.parents) <= objects


def test_most_exam_prompts_speak_of_two_things_and_a_fifth_of_the_counts_of_more_than_three():
    items = make_exam(0, dev_per_skill=1, test_per_skill=100)["test"]
    asked = [[q.category for q in item.questions] for item in items]
    pairs = sum(categories.count("object") == 2 for categories in asked)
    assert 0.75 < pairs / 400 < 0.85
    assert 10 <= sum("count_many" in categories for categories in asked) <= 30
    assert sum("count" in categories for categories in asked) > 60
    assert 60 < sum("background" in categories for categories in asked) < 140


def test_counterfactual_prompts_are_made_of_rare_combinations_only():
    for item in make_exam(0, dev_per_skill=1, test_per_skill=30)["test"]:
        if item.skill == "counterfactual":
            shown = re.findall(
                r"(red|green|blue|yellow|purple|orange) (circle|square|triangle|cross)", item.prompt
            )
            assert shown and set(shown) <= set(RARE)


def test_corpus_is_reproducible_and_its_neighbours_differ():
    recipe = {"images": 40, "captions": 2, "rare": 0.05, "wrong": 0.2, "drop": 0.3, "pairs": 0.5}
    corpus = make_corpus(3, **recipe)
    again = make_corpus(3, **recipe)
    assert np.array_equal(corpus.images, again.images) and corpus.captions == again.captions
    assert corpus.images.shape == (40, 64, 64, 3) and all(len(texts) == 2 for texts in corpus.captions)


def test_a_corpus_shows_as_many_pairs_as_asked_for():
    recipe = {"images": 600, "captions": 1, "rare": 0.0, "wrong": 0.0, "drop": 0.0}
    shares = []
    for pairs in (0.0, 0.75, 1.0):
        texts = make_corpus(0, **recipe, pairs=pairs).captions
        shares.append(
            np.mean([len(re.findall(r"circle|square|triangle|cross", text)) > 1 for [text] in texts])
        )
    assert shares[0] == 0.0 and shares[2] == 1.0 and 0.65 < shares[1] < 0.85


@pytest.mark.parametrize("skill", [*STYLES, "relations", "sizes"])
def test_the_writer_reads_the_style_from_the_request_alone(skill):
    loaded = load_skill(SKILLS, skill)
    assert read_style(request_text(loaded, loaded.seeds, 20), list(loaded.seeds)) == skill


WRITTEN = {
    "objects": "d83f603205b6940d",
    "paragraph": "28fa8e3262432b05",
    "tags": "2bf105294493f86f",
    "count": "1172aa0587c97b8a",
    "counterfactual": "85284b3be1d249d9",
}


@pytest.mark.parametrize("name", STYLES)
def test_what_is_written_for_the_five_skills_of_the_exam_stays(name):
    skill = load_skill(SKILLS, name)
    request = request_text(skill, skill.seeds, 20)
    replies = "\0".join(Writer().reply(request, seed)[0] for seed in range(50))
    assert hashlib.sha256(replies.encode()).hexdigest()[:16] == WRITTEN[name]


def written(name: str) -> list[str]:
    """Prompts of a skill without those that were cut off, and the seeds."""
    skill = load_skill(SKILLS, name)
    request = request_text(skill, skill.seeds, 20)
    replies = [Writer().reply(request, seed) for seed in range(40)]
    items = [item for text, reason in replies if reason == "stop" for item in parse_list(text, reason)]
    assert len(items) > 600
    assert all(len(item.split()) <= skill.max_words for item in items)
    return [*skill.seeds, *items]


def test_prompts_of_relations_are_of_two_things_and_where_they_stand():
    where = (
        " left",
        " right",
        "above",
        "over",
        "higher",
        "below",
        "under",
        "beneath",
        " top",
        "bottom",
        "upper",
        "lower",
        "down",
    )
    for prompt in written("relations"):
        assert len(re.findall(r"circle|square|triangle|cross", prompt)) == 2, prompt
        assert any(word in prompt for word in where), prompt


def test_prompts_of_sizes_are_of_small_and_large_things():
    both = 0
    for prompt in written("sizes"):
        things = re.findall(r"circle|square|triangle|cross", prompt)
        sizes = re.findall(r"\b(small|large)\b", prompt)
        assert len(sizes) == len(things) and len(set(sizes)) == len(sizes), prompt
        both += len(things) == 2
    assert 400 < both < 700


def test_a_new_skill_is_written_in_the_style_of_its_examples():
    assert read_style("Write 20 more prompts.", ["a, b, c", "d, e, f", "g, h, i"]) == "tags"
    assert read_style("Write 20 more prompts.", ["two circles", "three squares", "one cross"]) == "count"


def test_the_writer_is_seeded_and_has_the_habits_of_real_models():
    skill = load_skill(SKILLS, "objects")
    request = request_text(skill, skill.seeds, 20)
    replies = [Writer().reply(request, seed) for seed in range(120)]
    assert replies == [Writer().reply(request, seed) for seed in range(120)]
    assert {reason for _, reason in replies} == {"stop", "length"}
    lists = [parse_list(*reply) for reply in replies]
    assert all(15 <= len(items) <= 20 for items in lists)
    assert any(len(set(items)) < len(items) for items in lists), "it never repeats itself"
