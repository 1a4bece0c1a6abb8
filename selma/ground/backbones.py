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
