"""The embedded benchmark: prompts per skill with atomic questions, in disjoint dev and test splits."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from selma.ground.items import Item
from selma.prompts.rouge import rouge_l
from selma.shapes.world.language import STYLES, Facts, describe
from selma.shapes.world.questions import make_questions
from selma.shapes.world.scene import Scene, sample_scene

_PAIR_SHARE = 0.8  # of the other skills' prompts speak of two things: one thing alone is too easy
_MANY_SHARE = 0.2  # of the count prompts ask for four or five, which no training prompt does
_BACKGROUND_SHARE = 0.2  # of the prompts name it: no more, as it is always right
_NEAR = 0.8  # ROUGE-L F above which two prompts say the same


def make_exam(seed: int, dev_per_skill: int, test_per_skill: int) -> dict[str, list[Item]]:
    """Items of both splits; no prompt appears twice, and no test prompt is near a dev prompt (ROUGE-L F above 0.8).

    Every fact of a prompt is asked: a prompt that names a colour, a relation or the background has a question on it.
    """
    rng = Random(f"exam:{seed}")
    seen: set[str] = set()
    dev: list[str] = []
    splits: dict[str, list[Item]] = {}
    for split, size in (("dev", dev_per_skill), ("test", test_per_skill)):
        splits[split] = [
            _item(rng, f"{skill}-{split}-{number:03d}", skill, seen, dev)
            for skill in STYLES
            for number in range(size)
        ]
        dev = [item.prompt for item in splits["dev"]]
    return splits


def _item(rng: Random, name: str, skill: str, seen: set[str], unlike: Sequence[str]) -> Item:
    while True:
        prompt, facts = caption(rng, exam_scene(rng, skill, _MANY_SHARE), skill)
        if prompt not in seen and not any(rouge_l(prompt, other) > _NEAR for other in unlike):
            seen.add(prompt)
            return Item(name, prompt, skill, "shapes", make_questions(facts))


def exam_scene(rng: Random, skill: str, many: float = 0.0) -> Scene:
    """A scene that a prompt of the skill speaks of; `many` is the share of counts of four or five."""
    if skill == "count":
        return sample_scene(rng, "count", numbers=(4, 5) if rng.random() < many else (1, 2, 3))
    kind = "pair" if rng.random() < _PAIR_SHARE else "single"
    return sample_scene(rng, kind, rare=1.0 if skill == "counterfactual" else 0.0)


def caption(rng: Random, scene: Scene, skill: str) -> tuple[str, Facts]:
    """What a prompt of the skill says of a scene, and the facts that it mentions."""
    return describe(rng, scene, skill, background=_BACKGROUND_SHARE)
