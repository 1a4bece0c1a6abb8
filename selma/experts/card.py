"""What lora.json says of an expert, but for its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from selma.lora.text import TEXT_TARGETS

if TYPE_CHECKING:
    from selma.runtime.params import Expert
    from selma.runtime.training import Training


def card(
    name: str,
    expert: Expert,
    settings: Training,
    options: Mapping[str, Any],
    *,
    backbone: str,
    text_backbone: str | None = None,
    start: str | None = None,
    images: int,
    seed: int,
) -> dict[str, Any]:
    """The card of the expert `name`, trained by `settings` on `images` images of its row; `backbone` and, where text
    encoders are trained, `text_backbone` are fingerprints, `start` the folder of the LoRA that it goes on from.

    `options` are those of its objective.
    """
    return {
        "name": name,
        "backbone": backbone,
        "rank": settings.rank,
        "alpha": settings.lora_alpha,
        "targets": list(settings.targets),
        **(
            {"text_targets": list(TEXT_TARGETS), "text_backbone": text_backbone}
            if settings.text_encoder
            else {}
        ),
        "data": expert.data,
        **({"start": start} if start else {}),
        **({"skills": list(expert.skills)} if expert.skills else {}),
        "images": images,
        "seed": seed,
        **({"objective": expert.objective} if expert.objective != "denoising" else {}),
        **({"options": dict(options)} if options else {}),
        **({"training": own} if (own := _unusual(settings)) else {}),
    }


def _unusual(settings: Training) -> dict[str, Any]:
    """How it was trained, where that is not as by default; rsLoRA stands in `alpha`."""
    defaults = {"schedule": "constant", "warmup": 0, "min_snr": None, "ema": 0.0}
    return {
        name: getattr(settings, name) for name, usual in defaults.items() if getattr(settings, name) != usual
    }
