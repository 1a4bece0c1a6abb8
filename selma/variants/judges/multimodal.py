"""A multimodal backbone that judges images, its own too: yes or no, with the margin p(yes) - p(no).

SILMM (arXiv 2412.05818) scores a model's images by its own answers to questions about them. As a judge of images that a
LoRA on the same backbone drew (`rate`), it answers with that LoRA: the judge is the model itself. Images of another
backbone it judges as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.backbones.loading import fingerprint, load_backbone
from selma.ground.adapters import read_adapter
from selma.ground.backbones import MULTIMODAL, is_multimodal
from selma.ground.errors import UserError
from selma.judging.multimodal import MultimodalJudge

ANSWERS, SCORES = True, False
NEEDS = ("weights",)
TAKES = ()
SELF = True  # answers with the LoRA that drew the images


def load(
    folder: Path, card: dict[str, Any], device: str, dtype: str, lora: Path | None = None
) -> MultimodalJudge:
    """The judge; raises UserError for a folder that cannot be opened, or cannot say yes or no."""
    if not is_multimodal(folder):
        raise UserError(
            f"{folder}: is no multimodal model; a folder whose config.json says model_type "
            f"{' or '.join(MULTIMODAL)} is needed"
        )
    own = lora is not None and read_adapter(lora).card["backbone"] == fingerprint(folder)
    return MultimodalJudge(load_backbone(folder, device, dtype, lora if own else None), folder)
