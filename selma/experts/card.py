"""What lora.json says of an expert, but for its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selma.runtime.params import Expert
    from selma.runtime.training import Training


def card(
    name: str, expert: Expert, settings: Training, *, backbone: str, images: int, seed: int
) -> dict[str, Any]:
    """The card of the expert `name`, trained by `settings` on `images` images of its row; `backbone` a fingerprint."""
    return {
        "name": name,
        "backbone": backbone,
        "rank": settings.rank,
        "alpha": settings.lora_alpha,
        "targets": list(settings.targets),
        "data": expert.data,
        **({"skills": list(expert.skills)} if expert.skills else {}),
        "images": images,
        "seed": seed,
    }
