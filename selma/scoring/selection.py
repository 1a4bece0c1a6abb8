"""Scoring the checkpoints of a training and keeping one: what the stages of experts and of mixtures share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from selma.experts.checkpoints import checkpoints
from selma.ground.files import read_json, write_json
from selma.judging.judge import load_judge
from selma.runtime import stage
from selma.scoring import exam
from selma.scoring.dev import choose, dev_items

if TYPE_CHECKING:
    from selma.runtime.params import Drawing, Runtime

PLACES = 4  # of scores in the metrics

Scorer = Callable[[Path], dict[str, float]]  # a checkpoint's dev scores, 0 to 1, by item


@dataclass(frozen=True)
class Exam:
    """How checkpoints are drawn and judged: `images` of each dev prompt, `judge` a name, `batch` its own.

    `data` are the folders of the images that were trained on, each with those of its skills.
    """

    data: Sequence[tuple[Path, Sequence[str] | None]]
    backbone: Path
    benchmark: Path
    drawing: Drawing
    images: int
    seed: int
    judge: str
    batch: int
    runtime: Runtime

    def scorer(self) -> Scorer:
        """A function from a checkpoint to its dev scores by item; every checkpoint draws from the same noise.

        Raises UserError where there are no dev prompts.
        """
        from selma.backbones.loading import load_backbone  # torch: policy `last` does without it

        items, held_out = dev_items(self.data, self.benchmark)
        device, dtype = self.runtime.device, self.runtime.dtype
        judge = load_judge(self.judge, device, dtype)

        def score(checkpoint: Path) -> dict[str, float]:
            # Loaded again each time, as in the sample stage: cheap compared to drawing, and identical to the bit.
            pipe = load_backbone(self.backbone, device, dtype, lora=checkpoint)
            return exam.item_means(
                pipe,
                judge,
                items,
                self.drawing,
                held_out=held_out,
                images=self.images,
                seed=self.seed,
                where=str(checkpoint),
                batch=self.batch,
            )

        return score


def keep_one(name: str, found: Path, policy: str, asked: Exam, folder: Path) -> tuple[Path, Path]:
    """Choose one of the checkpoints in `found` by a policy (best or last); its copy and the metrics of the choice.

    Both are in the work folder `folder`, with the scores that a stopped run has already made.
    Raises UserError for no checkpoints, and for no dev prompts to score them by.
    """
    steps = checkpoints(found)
    best = policy == "best"
    scores = _score(steps, asked.scorer(), folder / "scores.json", name) if best else {}
    chosen, noises = choose(scores) if best else (max(steps), {})
    out, metrics = folder / "chosen", folder / "metrics.json"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(steps[chosen], out)
    said: dict[str, Any] = {
        "policy": policy,
        "chosen": chosen,
        "scores": {str(step): round(fmean(found.values()), PLACES) for step, found in scores.items()},
        "noise": {str(step): round(noise, PLACES) for step, noise in noises.items()},
    }
    write_json(metrics, said)
    return out, metrics


def _score(found: Mapping[int, Path], scorer: Scorer, kept: Path, name: str) -> dict[int, dict[str, float]]:
    """Scores by checkpoint and item; `kept` holds those that a stopped run has already scored."""
    scores = {int(step): score for step, score in read_json(kept).items()} if kept.exists() else {}
    for step, checkpoint in stage.progress(found.items(), len(found), f"select {name}"):
        if step not in scores:
            scores[step] = scorer(checkpoint)
            write_json(kept, scores)
    return dict(sorted(scores.items()))
