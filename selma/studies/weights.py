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
from selma.runtime.params import Merge, Params, results
from selma.runtime.places import BACKBONES, EXPERTS, IMAGES, JUDGES
from selma.scoring.dev import dev_prompts
from selma.scoring.given import Given
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
        self._times = read_times(times)
        self._lead = source.out("data/benchmarks") / params.evaluate.benchmarks[0]

    def of(self, name: str, row: Row) -> tuple[Path | None, Cost]:
        """The folder of a row's LoRA, None for the backbone itself, and what making it cost."""
        experts = experts_of(row, self.params)
        if row.expert is not None:
            return self._expert(row.expert), self._trained(experts)
        if row.merge is None:
            return None, Cost()
        folder, cost = self._merged(name, row.merge, experts)
        return folder, cost + self._trained(experts)

    def _expert(self, name: str) -> Path:
        return self.source.out(EXPERTS) / name

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
        self.source.out(IMAGES)  # where prompts are held out, they lie beside them
        data, skills = self._given(Path()).data(expert)
        items, held_out = dev_prompts(data, self._lead, skills)
        images = self.params.select.images_per_prompt
        asked = len(items) if held_out else sum(len(item.questions) for item in items)
        return images * len(items), images * asked

    def _trained(self, experts: list[str]) -> Cost:
        """What training these experts took: their images once each, and the choice of their checkpoints."""
        cost, skills = Cost(), dict[str, int]()
        for name in experts:
            if name in self.params.policies:
                cost += self._learned(name)
                continue
            card = self._card(name)
            scored = self.source.metrics(f"metrics/select/{name}.json")["scores"]
            steps = max(map(int, scored), default=card["steps"])
            images, questions = self._dev(name) if scored else (0, 0)
            cost += Cost(steps, len(scored) * images, len(scored) * questions)
            cost += self._seconds(f"expert@{name}", f"select@{name}")
            skills |= self._images(name, card)
        for skill, images in skills.items():
            cost += Cost(images=images) + self._seconds(
                *(f"{s}@{skill}" for s in ("prompts", "filter", "images"))
            )
        return cost

    def _learned(self, name: str) -> Cost:
        """What a policy took: its rounds' pictures and questions, and those that examined its checkpoints."""
        found = self.source.metrics(f"metrics/policy/{name}.json")
        dev = load_split(self._lead, "dev")
        times = len(found["scores"]) * self.params.policy.images_per_prompt
        images, asked = times * len(dev), times * sum(len(item.questions) for item in dev)
        cost = Cost(found["updates"], found["images"] + images, found["questions"] + asked)
        return cost + self._seconds(f"policy@{name}")

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

    def _seconds(self, *stages: str) -> Cost:
        return Cost(seconds=sum(self._times.get(stage, 0.0) for stage in stages))
