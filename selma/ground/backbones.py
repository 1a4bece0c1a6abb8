"""What tells a backbone's folder from a LoRA's, and a multimodal model's from a diffusion pipeline's."""

from __future__ import annotations

from pathlib import Path

from selma.ground.files import read_record

# In a pipeline's folder in diffusers' layout, in a multimodal model's in transformers', and in no LoRA's.
INDEX, CONFIG = "model_index.json", "config.json"
MULTIMODAL = ("janus",)  # model_type of the multimodal models that are known here


def is_backbone(folder: Path) -> bool:
    """Whether a folder holds a backbone, of either kind, and not a LoRA."""
    return any((Path(folder) / name).is_file() for name in (INDEX, CONFIG))


def is_multimodal(folder: Path) -> bool:
    """Whether a backbone's folder holds a multimodal model, by its config.json; raises UserError for a broken one."""
    file = Path(folder) / CONFIG
    return file.is_file() and read_record(file, dict).get("model_type") in MULTIMODAL


def image_tokens(folder: Path) -> int | None:
    """How many tokens a multimodal model draws an image as, by its config.json; None where that does not say it.

    transformers takes the patches of each side from the vision tower, whose sizes have defaults (Janus's 384 and 16).
    """
    vision = read_record(Path(folder) / CONFIG, dict).get("vision_config")
    if not isinstance(vision, dict):
        return None
    side, patch = vision.get("image_size", 384), vision.get("patch_size", 16)
    whole = isinstance(side, int) and isinstance(patch, int) and patch > 0
    return (side // patch) ** 2 if whole else None
