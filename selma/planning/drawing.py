"""What stages make that ask for prompts, draw, and judge."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from selma.planning.basis import Basis, lacking
from selma.planning.work import Work
from selma.runtime.drawing import Drawing
from selma.runtime.places import BACKBONES


def written(of: Basis, kind: str, skill: str) -> Work:
    """A skill's candidates: LLM calls."""
    requests = of.prompts.requests(skill)
    rows = of.params.prompts.candidates
    return Work(requests=requests, unit="requests", number=requests, by=_llm(of), stored=(kind, rows))


def filtered(of: Basis, kind: str, skill: str) -> Work:
    """A skill's candidates, compared with each other and with the exams."""
    rows = of.params.prompts.candidates
    exams = ", ".join(of.params.evaluate.benchmarks)
    return Work(unit="candidates", number=rows, by=exams, stored=(kind, rows))


def questioned(of: Basis, kind: str, skill: str) -> Work:
    """An LLM call for each kept prompt, or none."""
    kept = of.prompts.kept(skill)
    if of.params.questions.source == "none":
        return Work(by="none", stored=(f"{kind}, none", kept))
    return Work(requests=kept, unit="requests", number=kept, by=_llm(of), stored=(kind, kept))


def images(of: Basis, kind: str, skill: str) -> Work:
    """A skill's training images."""
    number = of.prompts.kept(skill) * of.params.images.candidates
    return drawn(of, kind, number, of.params.images.backbone, of.params.images.drawing)


def more(of: Basis, kind: str, name: str) -> Work:
    """The images of a row of `draws`."""
    row, drawing = of.params.draws[name], of.params.images.drawing
    if row.guidance is not None:
        drawing = dataclasses.replace(drawing, guidance=row.guidance)
    found, weights = of.prompts.learned(row.prompts), Path(row.weights)
    backbone = weights.name if weights.parent == Path(BACKBONES) else of.params.expert.backbone
    work = drawn(of, kind, (found.prompts or 0) * row.images, backbone, drawing)
    return work if found.prompts is not None else lacking(work, f"the captions of {row.prompts}")


def sampled(of: Basis, kind: str, model: str, benchmark: str) -> Work:
    """The images of one model for one benchmark."""
    asked, exam = of.params.evaluate, of.prompts.exams.of(benchmark)
    guidance = of.params.models[model].guidance
    number = (exam.prompts or 0) * asked.images_per_prompt
    work = drawn(of, kind, number, of.params.expert.backbone, asked.drawing, guidance)
    return work if exam.prompts is not None else lacking(work, f"the prompts of {benchmark}")


def rendered(of: Basis, kind: str, name: str) -> Work:
    """The pictures of a row of `renders`, of 64 pixels a side."""
    row = of.params.renders[name]
    number = row.images * len(row.skills)
    return Work(images=number, unit="images", number=number, stored=(kind, number), most=number * 3 * 64**2)


def rated(of: Basis, kind: str, judge: str, source: str) -> Work:
    """One judge's scores of a skill's images, or of a row of `draws`."""
    name = Path(source).name
    if kind == "rate":
        found, each = of.prompts.asked(name), of.params.images.candidates
    else:
        row = of.params.draws[name]
        found, each = of.prompts.learned(row.prompts), row.images
    number = (found.prompts or 0) * each
    return judged(of, kind, number, of.asked(judge, found, each), judge)


def answered(of: Basis, kind: str, model: str, benchmark: str) -> Work:
    """A benchmark's questions about one model's images."""
    exam, each = of.prompts.exams.of(benchmark), of.params.evaluate.images_per_prompt
    work = judged(
        of, kind, 0, None if exam.questions is None else exam.questions * each, of.params.judge.name
    )
    return work if exam.questions is not None else lacking(work, f"the questions of {benchmark}")


def preferred(of: Basis, kind: str, judge: str, model: str, benchmark: str) -> Work:
    """One score for each of a model's images of a benchmark."""
    exam, each = of.prompts.exams.of(benchmark), of.params.evaluate.images_per_prompt
    work = judged(of, kind, 0, None if exam.prompts is None else exam.prompts * each, judge)
    return work if exam.prompts is not None else lacking(work, f"the prompts of {benchmark}")


def drawn(of: Basis, kind: str, number: int, backbone: str, drawing: Drawing, guidance: str = "cfg") -> Work:
    """So many images of a backbone, kept as WebP without loss: 3 bytes a pixel at most."""
    part = of.drawing(number, backbone, drawing, guidance)
    side = drawing.resolution
    return Work(
        images=number,
        unit="images",
        number=number,
        of=part.of,
        by=part.by,
        parts=(part,),
        stored=(f"images, {backbone}, {side} px", number),
        most=number * 3 * side * side,
    )


def judged(of: Basis, kind: str, images: int, questions: int | None, judge: str) -> Work:
    """So many questions to a judge, about so many images of training prompts; None: not known."""
    number = questions or 0
    unknown = ("questions of training prompts",) if questions is None and images else ()
    work = Work(questions=number, unit="questions", number=number, by=judge, stored=(kind, number))
    return lacking(work, *unknown)


def _llm(of: Basis) -> str:
    llm = of.params.llm
    return llm.provider if llm.model is None else f"{llm.provider}, {llm.model}"
