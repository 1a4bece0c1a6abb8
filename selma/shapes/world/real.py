"""Real pairs of the embedded world: what a person would have photographed and described, made by the renderer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import TYPE_CHECKING

from selma.ground.errors import UserError
from selma.shapes.world.exam import caption, exam_scene
from selma.shapes.world.questions import make_questions
from selma.shapes.world.render import draw_scene

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.ground.items import Question

TRIES = 200  # captions for each that is wanted; short ones run out


def real_pairs(
    seed: int, skill: str, images: int, allowed: Callable[[str], bool], *, spread: float, jitter: float
) -> Iterator[tuple[str, tuple[Question, ...], Image]]:
    """`images` captions of the exam's own kind, none twice; their questions, and a picture that shows what they say.

    Only captions that are `allowed` are used; counts are three at most, as in training prompts. `spread` and `jitter`
    are the renderer's. Raises UserError where the skill has not as many captions.
    """
    rng, seen = Random(f"real:{seed}:{skill}"), set[str]()
    for _ in range(images * TRIES):
        scene = exam_scene(rng, skill)
        text, facts = caption(rng, scene, skill)
        if text not in seen and allowed(text):
            seen.add(text)
            yield text, make_questions(facts), draw_scene(rng, scene, spread, jitter)
            if len(seen) == images:
                return
    raise UserError(
        f"only {len(seen)} of {images} captions of the skill {skill} are new and unlike the exam's; lower images"
    )
