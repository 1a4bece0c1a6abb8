"""Questions about images, with answers, that the multimodal backbone learns to answer: labelled by the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

from selma.ground.items import Question
from selma.shapes.pretraining.corpus import Corpus
from selma.shapes.reading.looking import is_so
from selma.shapes.reading.vision import Picture, read_picture
from selma.shapes.world.language import Facts
from selma.shapes.world.questions import make_questions
from selma.shapes.world.scene import Scene, corrupt_scene, sample_scene


@dataclass(frozen=True)
class Asked:
    """Of each image equally many questions and their answers, "yes" or "no"; and what the oracle reads in it."""

    texts: list[list[str]]
    answers: list[list[str]]
    pictures: list[Picture]


def ask(corpus: Corpus, seed: int, questions: int) -> Asked:
    """`questions` about each image of a corpus, about as many with yes for an answer as with no.

    They are asked of the scene itself, of one that differs in a fact or two, and of another one of its kind; the oracle
    looks at the image and answers, as people label a data set.
    """
    rng = Random(f"asked:{seed}")
    texts, answers, pictures = [], [], []
    for pixels, scene in zip(corpus.images, corpus.scenes, strict=True):
        others = (
            scene,
            corrupt_scene(rng, scene),
            corrupt_scene(rng, scene),
            sample_scene(rng, scene.kind, 0.1),
        )
        found = list({one.text: one for other in others for one in make_questions(all_facts(other))}.values())
        picture = read_picture(Image.fromarray(pixels))
        pictures.append(picture)
        said = ["yes" if is_so(picture, one) else "no" for one in found]
        chosen = _even(rng, found, said, questions)
        texts.append([question.text for question, _ in chosen])
        answers.append([answer for _, answer in chosen])
    return Asked(texts, answers, pictures)


def all_facts(scene: Scene) -> Facts:
    """Everything that there is to say of a scene."""
    things = tuple((t.color, t.shape, None if t.size == "medium" else t.size) for t in scene.things)
    return Facts(things, scene.relation, scene.number if scene.kind == "count" else None, scene.background)


def _even(
    rng: Random, questions: Sequence[Question], said: Sequence[str], count: int
) -> list[tuple[Question, str]]:
    """`count` questions with their answers, half of them with yes if there are so many, some twice if need be."""
    pairs = list(zip(questions, said, strict=True))
    rng.shuffle(pairs)
    yes, no = ([pair for pair in pairs if pair[1] == word] for word in ("yes", "no"))
    chosen = [*yes[: count // 2], *no[: count - count // 2]]
    left = [pair for pair in pairs if pair not in chosen]
    chosen += left[: count - len(chosen)]
    return [*chosen, *rng.choices(pairs, k=count - len(chosen))]
