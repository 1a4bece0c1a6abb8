"""Image-caption pairs the backbone is pretrained on: as uneven, incomplete and partly wrong as web data."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np

from selma.shapes.world.language import describe
from selma.shapes.world.render import CANVAS, draw_scene
from selma.shapes.world.scene import Scene, corrupt_scene, sample_scene

# Web data is uneven: short captions abound, long ones and plain counts are few, the odd style is a trickle.
_STYLES = ("objects", "tags", "paragraph", "counterfactual")
_STYLE_WEIGHTS = (0.48, 0.25, 0.22, 0.05)
_SINGLES = 16 / 27  # of the images without a pair show one thing, the others several of one kind


@dataclass(frozen=True)
class Corpus:
    """images: uint8 [n, 64, 64, 3]; captions: n lists of equally many texts; scenes: what each image shows.

    Neighbours 2i and 2i+1 show scenes that differ in one or two facts: hard negatives for a contrastive loss.
    """

    images: np.ndarray
    captions: list[list[str]]
    scenes: list[Scene]


def make_corpus(
    seed: int,
    *,
    images: int,
    captions: int,
    rare: float,
    wrong: float,
    drop: float,
    pairs: float,
    spread: float = 1.0,
    jitter: float = 1.0,
) -> Corpus:
    """A seeded corpus of `images` images (an even number), each with `captions` captions.

    rare: chance that a thing is a rare combination. wrong: chance that a caption describes another scene (one or
    two facts replaced). drop: chance that a caption is a careless one, which leaves out about half of the facts.
    pairs: share of images of two things.
    spread, jitter: how far from the middle things stand, and how much they vary in size and spacing (render.place).
    """
    rng = Random(f"corpus:{seed}")
    kinds = {"single": _SINGLES * (1 - pairs), "pair": pairs, "count": (1 - _SINGLES) * (1 - pairs)}
    pixels = np.empty((images, CANVAS, CANVAS, 3), np.uint8)
    texts, scenes = [], []
    for index in range(0, images, 2):
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        scene = sample_scene(rng, kind, rare, numbers=(1, 2, 2, 3, 3, 4, 5))
        for offset, shown in enumerate((scene, corrupt_scene(rng, scene))):
            pixels[index + offset] = np.asarray(draw_scene(rng, shown, spread, jitter))
            texts.append([_caption(rng, shown, wrong, drop) for _ in range(captions)])
            scenes.append(shown)
    return Corpus(pixels, texts, scenes)


def _caption(rng: Random, scene: Scene, wrong: float, drop: float) -> str:
    if rng.random() < wrong:
        scene = corrupt_scene(rng, scene)
    style = rng.choices(_STYLES, _STYLE_WEIGHTS)[0]
    if scene.kind == "count" and style in ("objects", "counterfactual"):
        style = "count"
    return describe(rng, scene, style, drop=0.5 if rng.random() < drop else 0.0)[0]
