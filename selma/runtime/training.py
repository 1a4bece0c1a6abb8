"""Section `expert` of params.yaml: how LoRA experts are trained, and what a row of `experts` sets for itself alone."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from selma.ground.schema import Count, Fraction, Positive, one_of, section
from selma.runtime import variants
from selma.runtime.drawing import NonNegative, Pixels
from selma.runtime.schema import Name, Names

if TYPE_CHECKING:
    from selma.runtime.params import Expert

Schedule = Annotated[str, one_of(("constant", "linear", "cosine"))]
Steps = Annotated[int, Field(ge=0, le=10**7)]  # perhaps none
Samples = Annotated[int, Field(ge=0, le=64)]
Decay = Annotated[float, Field(ge=0, lt=1)]


@section
class Training:
    """How every expert is trained.

    The learning rate rises over `warmup` steps and then follows `schedule` (selma/experts/schedule.py). `min_snr` is
    the gamma of a loss that weighs time steps (Hang et al., arXiv 2303.09556); null weighs all alike. `ema` is the
    decay, by step, of the moving average that checkpoints hold; 0 keeps the adapter itself. `rslora` scales by
    alpha / sqrt(rank). `samples` of an expert's captions are drawn at every checkpoint, for MLflow.
    `text_encoder` trains a LoRA on the attention of the text encoders, too, both of SDXL's.
    `caption_dropout` is the share of captions made empty, `accumulate` in how many parts a batch goes through the
    UNet (more parts, less memory, the same gradient), `save_dtype` the checkpoints'; training itself is in float32.
    `flip` mirrors each image or not, at random in every step. `init` says whether all experts start from one A (shared,
    the paper's) or each from its own.
    """

    backbone: Name
    rank: Count
    alpha: Positive
    targets: Names
    learning_rate: Positive
    weight_decay: NonNegative
    max_grad_norm: Positive
    caption_dropout: Fraction
    batch: Count
    steps: Count
    checkpoint_every: Count
    accumulate: Count = 1
    gradient_checkpointing: bool = False
    save_dtype: Annotated[str, one_of(("float32", "float16", "bfloat16"))] = "float32"
    flip: bool = False
    init: Annotated[str, one_of(("shared", "own"))] = "shared"
    resolution: Pixels | None = None
    schedule: Schedule = "constant"
    warmup: Steps = 0
    min_snr: Positive | None = None
    ema: Decay = 0.0
    rslora: bool = False
    samples: Samples = 0
    text_encoder: bool = False

    @property
    def lora_alpha(self) -> float:
        """The alpha that files state: lora_alpha / rank, by which every loader scales, is the scale that was trained.

        It is alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski, arXiv 2312.03732, equation 4).
        """
        return self.alpha * math.sqrt(self.rank) if self.rslora else self.alpha


def training_of(expert: Training, row: Expert) -> Training:
    """How one expert is trained: section `expert`, and in its place what the expert's row sets itself.

    A setting that is null in the row is the section's. An objective that trains text encoders alone always trains them.
    """
    own = {field.name: getattr(row, field.name, None) for field in dataclasses.fields(expert)}
    found = dataclasses.replace(expert, **{name: value for name, value in own.items() if value is not None})
    texts = variants.constants("objectives", row.objective).get("TEXT", False)
    return dataclasses.replace(found, text_encoder=True) if texts else found
