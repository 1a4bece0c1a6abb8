"""What all kinds of stages are counted from: the settings, the prompts, and how drawing and judging are timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

from selma.planning.exams import Exam
from selma.planning.prompts import Prompts
from selma.planning.work import DRAWING, Part, Work
from selma.runtime import variants
from selma.runtime.drawing import Drawing
from selma.runtime.params import Params


class Basis:
    """One params.yaml, and what lies here."""

    def __init__(self, params: Params, root: Path, there: Collection[str]) -> None:
        """`there` are stages whose outs, where they lie here, are what they would make."""
        self.params = params
        self.prompts = Prompts(params, root, there)

    def drawing(self, number: int, backbone: str, drawing: Drawing, guidance: str = "cfg") -> Part:
        """Images of a backbone; one of guidance takes two passes of the UNet a step."""
        by = f"{backbone}, {drawing.resolution} px, {self.params.runtime.dtype}"
        by += "" if guidance == "cfg" else f", {guidance}"
        return Part(DRAWING, number, by, drawing.steps * (2 if drawing.guidance > 1 else 1))

    def asked(self, judge: str, found: Exam, each: float) -> int | None:
        """What a judge is asked about `each` images of every prompt: their questions, or one score an image."""
        row = {**self.params.judges, **self.params.own.judges}[judge]
        if found.prompts is None:
            return None
        if not variants.constants("judges", row.kind)["ANSWERS"] or found.questions == 0:
            return round(found.prompts * each)
        return None if found.questions is None else round(found.questions * each)

    def examined(self, times: int, dev: Exam) -> Work:
        """Drawing the dev prompts with so many checkpoints, and asking the judge about the images."""
        params = self.params
        each = times * params.select.images_per_prompt
        images, questions = (dev.prompts or 0) * each, round((dev.questions or 0) * each)
        part = self.drawing(images, params.expert.backbone, params.evaluate.drawing)
        return Work(
            images=images,
            questions=questions,
            unit="images",
            number=images,
            of=part.of,
            by=f"{part.by}, {params.judge.name}",
            parts=(part,),
            rest="judging",
            unknown=() if dev.prompts else ("dev prompts",),
        )


def lacking(work: Work, *what: str) -> Work:
    """The work, with what could not be counted of it."""
    return dataclasses.replace(work, unknown=(*work.unknown, *what))
