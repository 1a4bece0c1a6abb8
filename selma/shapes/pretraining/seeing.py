"""The multimodal backbone's vision tower, before it meets the language model: it learns what covers its patches.

Janus's own tower is a SigLIP, pretrained on images with texts. Here a linear layer, which is thrown away, names what is
on every patch from the tower's state: 64 labels an image, where a question that is answered has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers.models.janus.modeling_janus import JanusVisionModel

from selma.shapes.pretraining.autoencoder import to_pixels
from selma.shapes.pretraining.optimise import optimise
from selma.shapes.reading.looking import size_of
from selma.shapes.reading.vision import Blob, Picture
from selma.shapes.world.render import CANVAS
from selma.shapes.world.scene import BACKGROUNDS, COLORS, SHAPES, SIZES

BATCH = 128
UNCLEAR = -100  # a patch of which nothing is learned
GROUNDS = tuple(BACKGROUNDS)
THINGS = tuple((color, shape, size) for color in COLORS for shape in SHAPES for size in SIZES)


def pretrain_vision(
    model: JanusVisionModel,
    images: tuple[np.ndarray, np.ndarray],
    pictures: Sequence[Picture],
    *,
    steps: int,
    seed: int,
    folder: Path,
    log: Callable[[int, float], None],
) -> None:
    """Train the tower, in place, on images, as they are and as their tokens show them, and what is read in them.

    images: both, uint8 [n, 64, 64, 3]; a step takes half of each.
    """
    side = CANVAS // model.config.patch_size
    renders, decoded = map(torch.from_numpy, images)
    truth = torch.from_numpy(np.stack([labels(each, side) for each in pictures]))
    torch.manual_seed(seed)
    head = nn.Linear(model.config.hidden_size, len(GROUNDS) + len(THINGS))

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        row = torch.randint(len(truth), (BATCH,), generator=generator)
        half = BATCH // 2
        shown = to_pixels(torch.cat([renders[row[:half]], decoded[row[half:]]]))
        with torch.autocast("cpu", torch.bfloat16):
            named = head(model(shown, return_dict=True).last_hidden_state)
        return cross_entropy(named.float().flatten(0, 1), truth[row].long().flatten(), ignore_index=UNCLEAR)

    optimise(
        {"vision": model, "head": head},
        loss,
        steps=steps,
        learning_rate=2e-3,
        seed=seed,
        folder=folder,
        ema=0.99,
        log=log,
    )


def labels(picture: Picture, side: int) -> np.ndarray:
    """What covers each patch, int16 [side * side], row by row: a background's number, a thing's, or UNCLEAR.

    A patch belongs to the thing whose box its middle lies in.
    """
    ground = GROUNDS.index(picture.background) if picture.background in GROUNDS else UNCLEAR
    found = np.full((side, side), ground, np.int16)
    middles = (np.arange(side) + 0.5) * CANVAS / side
    for blob in picture.blobs:
        across, down = (abs(middles - middle) <= blob.side / 2 for middle in (blob.x, blob.y))
        found[np.ix_(down, across)] = _number(blob)
    return found.flatten()


def _number(blob: Blob) -> int:
    if blob.color not in COLORS or blob.shape not in SHAPES:
        return UNCLEAR
    return len(GROUNDS) + THINGS.index((blob.color, blob.shape, size_of(blob)))
