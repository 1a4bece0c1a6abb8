"""The dev score of a LoRA that is not a file yet: what a search over merges asks for."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from selma.ground.files import read_json, write_json
from selma.ground.items import Item
from selma.lora.files import LoraWeights, save_lora
from selma.scoring import exam

if TYPE_CHECKING:
    from selma.judging.judge import Judge
    from selma.runtime.params import Drawing


def dev_scorer(
    backbone: Path,
    judge: Judge,
    items: Sequence[Item],
    drawing: Drawing,
    *,
    held_out: bool = False,
    images: int = 1,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    batch: int = 8,
    kept: Path | None = None,
) -> Callable[[LoraWeights], float]:
    """A function from a LoRA to its mean score on `items`, 0 to 1: DSG, or VQAScore where they are `held_out`.

    Every LoRA is drawn at weight 1 from the same noise, `images` of each item, as the select stage does; `batch`
    questions are asked at once. `kept` is a file that keeps each score: a search that was stopped draws none twice.
    """
    from selma.backbones.loading import load_pipeline  # torch and diffusers, for those who score

    known: dict[str, float] = read_json(kept) if kept is not None and kept.is_file() else {}

    def drawn_score(lora: LoraWeights) -> float:
        with tempfile.TemporaryDirectory() as folder:
            save_lora(Path(folder) / "lora", lora.state(), lora.provenance)
            pipe = load_pipeline(backbone, device, dtype, lora=Path(folder) / "lora")
        scores = exam.item_means(
            pipe,
            judge,
            items,
            drawing,
            held_out=held_out,
            images=images,
            seed=seed,
            where="the dev split",
            batch=batch,
        )
        return fmean(scores.values())

    def score(lora: LoraWeights) -> float:
        digest = _digest(lora)
        if digest not in known:
            known[digest] = drawn_score(lora)
            if kept is not None:
                write_json(kept, known)
        return known[digest]

    return score


def _digest(lora: LoraWeights) -> str:
    """Hash of the weights, to know them again."""
    digest = hashlib.sha256(repr(lora.scaling).encode())
    for key, factor in sorted(lora.state().items()):
        digest.update(key.encode())
        digest.update(factor.contiguous().numpy())
    return digest.hexdigest()
