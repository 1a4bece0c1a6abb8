"""How many prompts there are, and questions about one image of each: from what lies here, else from the settings."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path

from selma.ground.files import read_json
from selma.ground.items import load_items
from selma.ground.pairs import HELD_OUT
from selma.planning.exams import Exam, Exams, rows_of, sized
from selma.policies.prompts import EVERY, MOST_HELD
from selma.runtime.params import Params
from selma.runtime.picks import lies_in, origin
from selma.runtime.places import BENCHMARKS, DRAWN, IMAGES, QUESTIONS, RENDERED


class Prompts:
    """The prompts of a run by params.yaml; what lies here is counted where stages that are `there` made it."""

    def __init__(self, params: Params, root: Path, there: Collection[str]) -> None:
        """`there` are stages whose outs, where they lie here, are what they would make."""
        self._params, self._root, self._there = params, root, there
        self.exams = Exams(params, root, there)

    def requests(self, skill: str) -> int:
        """LLM calls for a skill's candidates: those that were made, else the least, as replies repeat themselves."""
        metrics = self._root / f"metrics/prompts/{skill}.json"
        if f"prompts@{skill}" in self._there and metrics.is_file():
            return int(read_json(metrics)["requests"])
        asked = self._params.prompts
        return math.ceil(asked.candidates / (asked.per_request * asked.round)) * asked.round

    def kept(self, skill: str) -> int:
        """A skill's prompts that are drawn and trained on."""
        found = rows_of(self._root / f"data/filtered/{skill}/prompts.jsonl")
        return found if found is not None and f"filter@{skill}" in self._there else self._params.filter.keep

    def asked(self, skill: str) -> Exam:
        """A skill's prompts with their questions; those are known once an LLM has written them."""
        if self._params.questions.source == "none":
            return Exam(self.kept(skill), 0)
        if f"questions@{skill}" not in self._there:
            return Exam(self.kept(skill), None)
        file = self._root / QUESTIONS / skill / "prompts.jsonl"
        if file.is_file():
            return sized(load_items(file))
        metrics = self._root / f"metrics/questions/{skill}.json"
        questions = int(read_json(metrics)["questions"]) if metrics.is_file() else None
        return Exam(self.kept(skill), questions)

    def learned(self, source: str) -> Exam:
        """The prompts of a row of `draws` or `policies`."""
        path, skills = Path(source), self._params.skills
        if path == Path(QUESTIONS):
            return together(self.asked(skill) for skill in skills)
        if path.parent == Path(QUESTIONS):
            return self.asked(path.name)
        if path.parent == Path(BENCHMARKS):
            return self.exams.of(path.name, "dev")
        if path.parent == Path(RENDERED):
            row = self._params.renders[path.name]
            return Exam(row.images * len(row.skills), None)
        return Exam(rows_of(self._root / path / "metadata.jsonl"), 0)  # captions of one's own images

    def dev(self, experts: Iterable[str]) -> Exam:
        """The prompts that checkpoints of these experts are scored on, held out of all of their images or the leading
        exam's; held-out ones are asked for a score, once each."""
        held = [self._held_out(name) for name in experts]
        if held and all(held):
            sources = set().union(*held)
            number = sum(map(self._held, sources))
            return Exam(number, number)
        return self.exams.of(self._params.evaluate.benchmarks[0], "dev")

    def apart(self, source: str) -> tuple[Exam, Exam]:
        """What a policy learns on, and what its checkpoints are scored on: policies/prompts.py has the rule."""
        found = self.learned(source)
        lead = self.exams.of(self._params.evaluate.benchmarks[0], "dev")
        if lead.prompts or found.prompts is None:
            return found, lead
        held = min(found.prompts, MOST_HELD) // EVERY
        each = None if found.questions is None else found.questions / (found.prompts or 1)
        parts = (found.prompts - held, held)
        first, second = (Exam(number, None if each is None else round(each * number)) for number in parts)
        return first, second

    def _held_out(self, name: str) -> list[str]:
        """Where prompts were held out of an expert's images: skills, or a folder of one's own."""
        row = self._params.experts[name]
        data = origin(row.data, self._params)
        if data == IMAGES or lies_in(data, IMAGES):
            skills = (row.skills or self._params.skills) if data == IMAGES else [Path(data).name]
            return list(skills) if self._params.filter.dev else []
        if lies_in(data, DRAWN, RENDERED):
            return []
        return [data] if (self._root / data / HELD_OUT).is_file() else []

    def _held(self, source: str) -> int:
        if source in self._params.skills:
            return self._params.filter.dev
        return rows_of(self._root / source / HELD_OUT) or 0


def together(exams: Iterable[Exam]) -> Exam:
    """Several exams as one; of unknown size where one's is."""
    found = list(exams)
    prompts, questions = [each.prompts for each in found], [each.questions for each in found]
    return Exam(
        None if None in prompts else sum(prompts),
        None if None in questions else sum(questions),
    )
