"""Sections `pretrain`, `pretrain_xl` and `pretrain_mm` of params.yaml: how the embedded backbones are made."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from selma.ground.schema import Count, Fraction, Seed, section
from selma.runtime.schema import RowName


@section
class Corpus:
    """One corpus of the embedded backbone's pretraining (selma/shapes/pretraining/corpus.py)."""

    images: Annotated[int, Field(ge=2)]
    captions: Count
    wrong: Fraction
    drop: Fraction
    pairs: Fraction
    spread: Fraction
    jitter: Fraction


@section
class XlRun:
    """One run of an embedded backbone's UNet (selma/shapes/pretraining/denoiser.py); text encoders stay as they are."""

    corpora: Annotated[dict[str, Count], Field(min_length=1)]
    noisy: Fraction
    zero_snr: bool
    decay_from: Fraction


@section
class UnetRun(XlRun):
    """The same of the first backbone, whose text encoder may learn, too."""

    text: bool


@section
class Pretrain:
    """The embedded backbone's corpora and each part's training steps (selma/shapes/pretraining/pretrain.py)."""

    seed: Seed
    rare: Fraction
    corpora: Annotated[dict[RowName, Corpus], Field(min_length=1)]
    vae_steps: Count
    clip_steps: Count
    unet: Annotated[tuple[UnetRun, ...], Field(min_length=1)]


@section
class PretrainXl:
    """The stronger embedded backbone's corpora and training steps (selma/shapes/pretraining/xl.py)."""

    seed: Seed
    rare: Fraction
    corpora: Annotated[dict[RowName, Corpus], Field(min_length=1)]
    clip_steps: Count
    unet: Annotated[tuple[XlRun, ...], Field(min_length=1)]


@section
class PretrainMm:
    """The multimodal embedded backbone's corpora and training steps (selma/shapes/pretraining/multimodal.py).

    `drawn` is the corpus that it learns to draw, `read` the one about whose images it is asked `questions` each.
    """

    seed: Seed
    rare: Fraction
    drawn: Corpus
    read: Corpus
    questions: Count
    token_steps: Count
    vision_steps: Count
    steps: Count
