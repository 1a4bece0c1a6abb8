"""The weights of a row from a run: an expert's folder, or a merge, made here and kept; and what they cost."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import TypedDict

from selma.ground.adapters import CARD
from selma.ground.errors import UserError
from selma.ground.files import folder_digest, read_json, read_record, sha256_file, write_json
from selma.ground.items import load_split
from selma.ground.schema import record
from selma.lora.files import load_lora, save_lora
from selma.merging.merge import merge
from selma.runtime import variants
from selma.runtime.params import Merge, Params
from selma.runtime.places import BACKBONES, EXPERTS, IMAGES
from selma.scoring.given import Given
from selma.studies.results import Cost
from selma.studies.rows import Row
from selma.studies.sources import Source, read_times

CARD_OF_MERGE = "merge.json"  # beside a kept merge: what it took


@record
class _Made(TypedDict):
    seconds: float
    images: float
    judge_calls: float


class Weights:
    """The rows' weights from one run."""

    def __init__(self, params: Params, source: Source, kept: Path, times: Path) -> None:
        """`params` are the run's own; merges are kept in the folder `kept`, stages' seconds in the file `times`."""
        self.params, self.source, self._kept = params, source, kept
        self._times = read_times(times)
        self._lead = source.out("data/benchmarks") / params.evaluate.benchmarks[0]
        dev = load_split(self._lead, "dev")  # checkpoints were chosen by it
        self._dev = len(dev), sum(len(item.questions) for item in dev)

    def of(self, name: str, row: Row) -> tuple[Path | None, Cost]:
        """The folder of a row's LoRA, None for the backbone itself, and what making it cost."""
        if row.expert is not None:
            return self._expert(row.expert), self._trained([row.expert])
        if row.merge is None:
            return None, Cost()
        experts = list(row.merge.experts or self.params.skills)
        folder, cost = self._merged(name, row.merge, experts)
        return folder, cost + self._trained(experts)

    def _expert(self, name: str) -> Path:
        return self.source.out(EXPERTS) / name

    def _merged(self, name: str, row: Merge, experts: list[str]) -> tuple[Path, Cost]:
        folder = self._kept / self._key(row, experts)
        card = folder / CARD_OF_MERGE
        if not card.is_file():
            started = time.monotonic()
            loras = {expert: load_lora(self._expert(expert)) for expert in experts}
            self.source.out(IMAGES)
            given = self._given(folder / "scores.json").to(row.operator, loras)
            merged = merge(name, row.operator, loras, row.options, **given)
            save_lora(folder, merged.state(), merged.provenance)
            asked = merged.provenance.get("found", {}).get("evaluations", 0)
            made = {"images": asked * self._dev[0], "judge_calls": asked * self._dev[1]}
            write_json(card, {"seconds": round(time.monotonic() - started, 3), **made})
        made = read_record(card, _Made)
        return folder, Cost(0, made["images"], made["judge_calls"], made["seconds"])

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
        """Hash of what a merge depends on: experts, operator and, where it draws or reads images, these."""
        depends: list[object] = [row.operator, row.options, experts]
        depends += [folder_digest(self._expert(expert)) for expert in experts]
        depends.append(sha256_file(variants.path("operators", row.operator)))
        if variants.constants("operators", row.operator).get("NEEDS"):
            depends += [self.params.seed, folder_digest(self.source.out(IMAGES))]
            depends.append(folder_digest(self._lead))
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:24]

    def _trained(self, experts: list[str]) -> Cost:
        """What training these experts took: their images once each, their checkpoints' choice among it."""
        cost, skills = Cost(), dict[str, int]()
        for name in experts:
            card = self._card(name)
            chosen = self.source.metrics(f"metrics/select/{name}.json")
            scored = len(chosen["scores"])
            steps = max(map(int, chosen["scores"]), default=card["steps"])
            cost += Cost(steps, scored * self._dev[0], scored * self._dev[1])
            cost += Cost(seconds=self._seconds(f"expert@{name}") + self._seconds(f"select@{name}"))
            skills |= self._images(name, card)
        drawn = Cost(images=sum(skills.values()))
        return cost + drawn + Cost(seconds=sum(self._seconds(f"images@{skill}") for skill in skills))

    def _images(self, name: str, card: Mapping[str, object]) -> dict[str, int]:
        """How many images of each skill an expert was trained on."""
        data = Path(str(card["data"]))
        if data != Path(IMAGES):
            return {data.name: int(str(card["images"]))}
        skills = self.params.experts[name].skills or self.params.skills
        return {skill: int(str(card["images"])) // len(skills) for skill in skills}

    def _card(self, name: str) -> Mapping[str, object]:
        card = read_json(self._expert(name) / CARD)
        for key in ("data", "images", "steps"):
            if key not in card:
                raise UserError(f"{self._expert(name) / CARD}: lacks {key}; train this expert again")
        return card

    def _seconds(self, stage: str) -> float:
        return self._times.get(stage, 0.0)
