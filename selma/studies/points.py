"""What a model scores at guidance scales, and the scale that is its own best on dev.

Every score is kept under a hash of what it depends on (weights, method of guidance and its file, drawing, prompts,
seed, judge, and the code that dvc.yaml lists for drawing and judging), so that a run that is stopped goes on, and a
further row costs its own images alone.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from selma.ground.adapters import CARD, WEIGHTS
from selma.ground.backbones import is_backbone
from selma.ground.files import folder_digest, read_record, sha256_file, write_json
from selma.ground.items import Item, load_split, splits
from selma.ground.schema import record
from selma.judging.judge import load_judge
from selma.prompts.rouge import rouge_l
from selma.runtime import variants
from selma.runtime.params import Model, Params, results
from selma.runtime.places import BACKBONES, JUDGES
from selma.scoring import exam
from selma.scoring.scores import item_scores
from selma.studies.sources import code_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.backbones.loading import Pipeline
    from selma.judging.judge import Judge
    from selma.runtime.drawing import Drawing

NEAR = 0.8  # ROUGE-L F above which two prompts say the same

Scores = Mapping[str, float]  # by item


@record
class Kept(TypedDict):
    """A file of scores."""

    scores: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Drawn:
    """What is drawn from: a LoRA's folder (None: the backbone itself), and the method of guidance with its settings.

    `backbone` is the backbone's name; None is that of params.yaml's experts.
    """

    lora: Path | None
    guidance: str = "cfg"
    options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str | None = None


def drawn_by(row: Model) -> Drawn:
    """A row of `models`."""
    weights = Path(row.weights)
    return Drawn(None if is_backbone(weights) else weights, row.guidance, row.options)


class Examiner:
    """Draws and judges a benchmark's prompts; what was scored before is read from a folder."""

    def __init__(self, params: Params, benchmark: Path, images: int, kept: Path) -> None:
        """`images` of every test prompt; of a dev prompt one, as where checkpoints are chosen."""
        self.params, self.kept = params, kept
        self.items: dict[str, list[Item]] = {
            split: load_split(benchmark, split) for split in splits(benchmark)
        }
        self._images = {"dev": 1, "test": images}
        folders = (JUDGES / params.judge.name, benchmark)
        judge = variants.path("judges", params.judge.kind)
        self._shared = [*map(folder_digest, folders), sha256_file(judge), *code_of(("sample", "answer"))]
        self._judge: Judge | None = None
        self._digests: dict[Path, str] = {}  # of backbones
        self._opened: tuple[tuple[Path, Path | None], Pipeline] | None = None

    def questions(self, split: str) -> int:
        """How many questions the judge answers to score a split once."""
        return self._images[split] * sum(len(item.questions) for item in self.items[split])

    def drawn(self, split: str) -> int:
        """How many images scoring a split draws."""
        return self._images[split] * len(self.items[split])

    def scores(self, model: Drawn, split: str, guidance: float, seed: int) -> tuple[Scores, float]:
        """Every item's faithfulness, 0 to 1, at one guidance scale, and the seconds that it took to draw and judge."""
        file = self.kept / f"{self._key(model, split, guidance, seed)}.json"
        if not file.is_file():
            started = time.monotonic()
            items, where = self.items[split], f"{model.lora or 'base'}, guidance {guidance:g}"
            drawn = self._draw(model, items, guidance, self._images[split], seed)
            found = exam.faithfulness(self.judge(), items, drawn, where=where, batch=self.params.judge.batch)
            took = time.monotonic() - started
            write_json(file, {"scores": item_scores(found), "seconds": round(took, 3)})
        kept = read_record(file, Kept)
        return kept["scores"], kept["seconds"]

    def images(self, model: Drawn, items: Sequence[Item], seed: int) -> list[Image]:
        """The first image of each item at the examined guidance: the very one that was scored, but for rounding."""
        guidance = self.params.evaluate.drawing.guidance
        return [image for _, _, image in self._draw(model, items, guidance, 1, seed)]

    def drawing(self, model: Drawn) -> Drawing:
        """How a model's pictures are drawn at the examined guidance: by params.yaml's drawing, as its kind allows."""
        from selma.images.tokens import fitted

        return fitted(self.pipe(model.lora, model.backbone), self.params.evaluate.drawing)

    def _draw(
        self, model: Drawn, items: Sequence[Item], guidance: float, images: int, seed: int
    ) -> exam.Drawn:
        from selma.images.tokens import fitted  # torch: not where every score is kept

        pipe = self.pipe(model.lora, model.backbone)
        return exam.draw(
            pipe,
            items,
            fitted(pipe, replace(self.params.evaluate.drawing, guidance=guidance)),
            images=images,
            seed=seed,
            method=model.guidance,
            options=model.options,
        )

    def pipe(self, lora: Path | None, backbone: str | None = None) -> Pipeline:
        """The backbone, that of params.yaml's experts or another, with a LoRA; the last one stays open."""
        asked = self._backbone(backbone), lora
        if self._opened is None or self._opened[0] != asked:
            from selma.backbones.loading import load_backbone  # torch: not where every score is kept

            self._opened = None
            runtime = self.params.runtime
            self._opened = asked, load_backbone(asked[0], runtime.device, runtime.dtype, lora=lora)
        return self._opened[1]

    def _backbone(self, name: str | None) -> Path:
        return Path(BACKBONES) / (name or self.params.expert.backbone)

    def judge(self) -> Judge:
        """The judge of params.yaml."""
        if self._judge is None:
            runtime = self.params.runtime
            self._judge = load_judge(self.params.judge.name, runtime.device, runtime.dtype)
        return self._judge

    def _key(self, model: Drawn, split: str, guidance: float, seed: int) -> str:
        drawing = results(self.params.evaluate.drawing, "evaluate.drawing") | {"guidance": guidance}
        backbone = self._backbone(model.backbone)
        if backbone not in self._digests:
            self._digests[backbone] = folder_digest(backbone)
        depends = [
            self._digests[backbone],
            *self._shared,
            _weights(model.lora),
            [model.guidance, dict(model.options), sha256_file(variants.path("guidance", model.guidance))],
            drawing,
            [split, self._images[split], seed, self.params.runtime.dtype],
        ]
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:24]


def _weights(lora: Path | None) -> list[str]:
    """Hashes of a LoRA's files, or a mixture's; none for the backbone itself."""
    if lora is None:
        return []
    names = (WEIGHTS, CARD) if (lora / CARD).is_file() else sorted(file.name for file in lora.iterdir())
    return [sha256_file(lora / name) for name in names]


def best(curve: Mapping[float, Scores]) -> float:
    """The scale whose mean is highest; of equal ones the lowest, which costs least."""
    means = {scale: fmean(found.values()) for scale, found in curve.items()}
    return min(means, key=lambda scale: (-means[scale], scale))


def scales_of(scales: Sequence[float], examined: float) -> list[float]:
    """The scales of a dev curve, the examined one among them, rising."""
    return sorted({*scales, examined})


def far_from(items: Sequence[Item], others: Sequence[Item]) -> list[str]:
    """The ids of the items whose prompts are near none of the others' (ROUGE-L F of at most 0.8)."""
    return [
        item.id for item in items if not any(rouge_l(item.prompt, other.prompt) > NEAR for other in others)
    ]
