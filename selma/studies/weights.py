"""The weights of a row from a run: an expert's folder, or a merge, made here and kept; and what they cost."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from typing_extensions import TypedDict

from selma.ground.files import folder_digest, read_record, sha256_file, write_json
from selma.ground.schema import record
from selma.lora.files import load_lora, save_lora
from selma.merging.merge import merge
from selma.runtime import variants
from selma.runtime.params import Merge, Params, results
from selma.runtime.places import BACKBONES, EXPERTS, IMAGES, JUDGES, MIXTURES
from selma.scoring.dev import dev_prompts
from selma.scoring.given import Given
from selma.studies.costs import Costs
from selma.studies.plan import experts_of
from selma.studies.results import Cost
from selma.studies.rows import Row
from selma.studies.sources import Source, code_of, read_times

LORA, MADE = "lora", "made.json"  # in a kept merge's folder: the LoRA, and what making it took


@record
class _Made(TypedDict):
    seconds: float
    scored: int  # times that the dev score was asked for


class Weights:
    """The rows' weights from one run."""

    def __init__(self, params: Params, source: Source, kept: Path, times: Path) -> None:
        """`params` are the run's own; merges are kept in the folder `kept`, stages' seconds in the file `times`."""
        self.params, self.source, self._kept = params, source, kept
        self._lead = source.out("data/benchmarks") / params.evaluate.benchmarks[0]
        self._costs = Costs(params, source, self._lead, read_times(times), self._dev)

    def of(self, name: str, row: Row) -> tuple[Path | None, Cost]:
        """The folder of a row's LoRA, None for the backbone itself, and what making it cost."""
        experts = experts_of(row, self.params)
        if row.expert is not None:
            return self._expert(row.expert), self._costs.of(experts)
        if row.merge is None:
            return None, Cost()
        folder, cost = self._merged(name, row.merge, experts)
        return folder, cost + self._costs.of(experts)

    def _expert(self, name: str) -> Path:
        return self.source.out(MIXTURES if name in self.params.mixtures else EXPERTS) / name

    def _merged(self, name: str, row: Merge, experts: list[str]) -> tuple[Path, Cost]:
        folder = self._kept / self._key(row, experts)
        if not (folder / MADE).is_file():
            started = time.monotonic()
            loras = {expert: load_lora(self._expert(expert)) for expert in experts}
            if variants.constants("operators", row.operator).get("NEEDS"):
                self.source.out(IMAGES)
            given = self._given(folder / "scores.json").to(row.operator, loras)
            merged = merge(name, row.operator, loras, row.options, **given)
            save_lora(folder / LORA, merged.state(), merged.provenance)
            scored = merged.provenance.get("found", {}).get("evaluations", 0)
            write_json(folder / MADE, {"seconds": round(time.monotonic() - started, 3), "scored": scored})
        made = read_record(folder / MADE, _Made)
        images, questions = self._dev(experts[0]) if made["scored"] else (0, 0)
        cost = Cost(0, made["scored"] * images, made["scored"] * questions, made["seconds"])
        return folder / LORA, cost

    def _given(self, kept: Path) -> Given:
        params = self.params
        return Given(
            run=self.source.folder,
            rows=params.experts,
            backbone=Path(BACKBONES) / params.expert.backbone,
            resolution=params.expert.resolution,
            benchmark=self._lead,
            drawing=params.evaluate.drawing,
            images=params.select.images_per_prompt,
            seed=params.seed,
            judge=params.judge.name,
            batch=params.judge.batch,
            runtime=params.runtime,
            kept=kept,
        )

    def _key(self, row: Merge, experts: list[str]) -> str:
        """Hash of what a merge depends on: experts, operator, code and, for one that draws or reads images, these."""
        depends: list[object] = [row.operator, row.options, experts, code_of(("merge",))]
        depends += [folder_digest(self._expert(expert)) for expert in experts]
        depends.append(sha256_file(variants.path("operators", row.operator)))
        if variants.constants("operators", row.operator).get("NEEDS"):
            params = self.params
            folders = (Path(BACKBONES) / params.expert.backbone, JUDGES / params.judge.name)
            depends += [folder_digest(path) for path in (self.source.out(IMAGES), self._lead, *folders)]
            depends += [results(params.evaluate.drawing, "evaluate.drawing"), params.select.images_per_prompt]
            depends += [params.seed, params.expert.resolution, params.runtime.dtype, params.judge.kind]
            depends += [[params.experts[expert].data, params.experts[expert].skills] for expert in experts]
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:24]

    def _dev(self, expert: str) -> tuple[int, int]:
        """Images that scoring one LoRA of this expert draws where checkpoints are chosen, and questions it asks."""
        self.source.out(self.params.experts[expert].data)  # where prompts are held out, they lie beside them
        data, skills = self._given(Path()).data(expert)
        items, held_out = dev_prompts(data, self._lead, skills)
        images = self.params.select.images_per_prompt
        asked = len(items) if held_out else sum(len(item.questions) for item in items)
        return images * len(items), images * asked
