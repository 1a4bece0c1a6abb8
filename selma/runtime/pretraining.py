"""Section `pretrain` of params.yaml: how the embedded backbone is made (selma/shapes/pretraining)."""

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
class UnetRun:
    """One run of the embedded backbone's UNet (selma/shapes/pretraining/denoiser.py)."""

    corpora: Annotated[dict[str, Count], Field(min_length=1)]
    noisy: Fraction
    zero_snr: bool
    text: bool
    decay_from: Fraction


@section
class Pretrain:
    """The embedded backbone's corpora and each part's training steps (selma/shapes/pretraining/pretrain.py)."""

    seed: Seed
    rare: Fraction
    corpora: Annotated[dict[RowName, Corpus], Field(min_length=1)]
    vae_steps: Count
    clip_steps: Count
    unet: tuple[UnetRun, ...]
