"""What merge operators may need besides experts, made from what a run has: calibration tokens, a dev score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.ground.pairs import read_training
from selma.runtime import variants
from selma.runtime.picks import lies_in
from selma.runtime.places import DRAWN, IMAGES, PICKED, RENDERED

if TYPE_CHECKING:
    from selma.lora.files import LoraWeights
    from selma.merging.calibration import Tokens
    from selma.merging.merge import Score
    from selma.runtime.params import Drawing, Expert, Runtime


@dataclass(frozen=True)
class Given:
    """What a run offers: the folders of its experts' images and of the benchmark that dev scores are of, and how to
    train, draw and judge (`resolution` is the experts', `images` of each dev prompt, `judge` a name, `batch` its own).

    `kept` is a file that keeps each dev score, so that a search which was stopped goes on.
    """

    run: Path
    rows: Mapping[str, Expert]
    backbone: Path
    resolution: int | None
    benchmark: Path
    drawing: Drawing
    images: int
    seed: int
    judge: str
    batch: int
    runtime: Runtime
    kept: Path

    def to(self, operator: str, experts: Mapping[str, LoraWeights]) -> dict[str, Any]:
        """The keyword arguments of merge() that an operator needs: `tokens`, `score`, both or none.

        torch and diffusers are imported only where something is needed.
        """
        makers = {"tokens": self._tokens, "score": self._score}
        needs = variants.constants("operators", operator).get("NEEDS", ())
        return {need: makers[need](experts) for need in needs}

    def data(self, expert: str) -> tuple[Path, tuple[str, ...] | None]:
        """The folder of an expert's images, and those of its skills; a folder of one's own is in no run."""
        row = self.rows[expert]
        made = lies_in(row.data, IMAGES, DRAWN, RENDERED, PICKED)
        return self.run / row.data if made else Path(row.data), row.skills

    def _tokens(self, experts: Mapping[str, LoraWeights]) -> Tokens:
        from selma.backbones.loading import load_pipeline
        from selma.merging.calibration import calibration

        pairs = {expert: read_training(*self.data(expert)) for expert in experts}
        pipe = load_pipeline(self.backbone, self.runtime.device, self.runtime.dtype)
        return calibration(pipe, experts, pairs, self.resolution)

    def _score(self, experts: Mapping[str, LoraWeights]) -> Score:
        from selma.judging.judge import load_judge
        from selma.scoring.dev import dev_items
        from selma.scoring.dev_score import dev_scorer

        items, held_out = dev_items([self.data(expert) for expert in experts], self.benchmark)
        device, dtype = self.runtime.device, self.runtime.dtype
        return dev_scorer(
            self.backbone,
            load_judge(self.judge, device, dtype),
            items,
            self.drawing,
            held_out=held_out,
            images=self.images,
            seed=self.seed,
            batch=self.batch,
            device=device,
            dtype=dtype,
            kept=self.kept,
        )
