"""What stages make that train, choose a checkpoint, merge or learn from judges."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from selma.planning.basis import Basis
from selma.planning.exams import Exam
from selma.planning.work import TRAINING, Part, Work
from selma.runtime import variants
from selma.runtime.learning import SOLACE
from selma.runtime.places import EXPERTS, MERGES, MIXTURES
from selma.runtime.training import Training, training_of


def trained(of: Basis, kind: str, name: str) -> Work:
    """An expert's steps."""
    row = of.params.experts[name]
    return training(of, kind, training_of(of.params.expert, row), row.objective)


def mixed(of: Basis, kind: str, name: str) -> Work:
    """A mixture's steps."""
    row = of.params.mixtures[name]
    steps = row.steps or of.params.expert.steps
    work = training(of, kind, dataclasses.replace(of.params.expert, steps=steps), row.objective)
    return dataclasses.replace(work, stored=None)  # gates, or a LoRA of its objective's rank


def chosen(of: Basis, kind: str, name: str) -> Work:
    """Scoring each checkpoint on the dev prompts, unless the last is kept unseen."""
    params = of.params
    if kind == "select":
        settings, experts = training_of(params.expert, params.experts[name]), [name]
        stored = (lora(settings), settings.rank)
    else:
        row = params.mixtures[name]
        settings = dataclasses.replace(params.expert, steps=row.steps or params.expert.steps)
        experts, stored = list(row.experts or params.skills), None
    if params.select.policy == "last":
        return Work(by="last", stored=stored)
    work = of.examined(_checkpoints(settings), of.prompts.dev(experts))
    return dataclasses.replace(work, stored=stored)


def learning(of: Basis, kind: str, name: str) -> Work:
    """A policy's rounds and the examinations of its checkpoints, if it does not stop early."""
    params, row = of.params, of.params.policies[name]
    policy = params.policy
    rounds = row.images // (policy.prompts * policy.group)
    train, dev = of.prompts.apart(row.prompts)
    times = (1 + math.ceil(rounds / policy.examine_every)) * policy.images_per_prompt
    drawn, examined = rounds * policy.prompts * policy.group, times * (dev.prompts or 0)
    judges = [judge for judge in row.rewards if judge != SOLACE]
    about = [of.asked(judge, Exam(1, _mean(train)), drawn) for judge in judges]
    about += [of.asked(judge, dev, times) for judge in (*judges, *row.held_out)]
    settings = variants.options("algorithms", row.algorithm, row.options, f"policies.{name}.options")
    backbone = params.expert.backbone
    parts = (
        of.drawing(drawn, backbone, policy.drawing),
        of.drawing(examined, backbone, params.evaluate.drawing),
    )
    return Work(
        images=drawn + examined,
        steps=rounds * settings.get("updates", 1) * settings.get("passes", 1),
        questions=sum(number for number in about if number is not None),
        unit="images",
        number=drawn + examined,
        of=parts[0].of,
        by=f"{parts[0].by}, {row.algorithm}, {' '.join(row.rewards)}",
        parts=parts,
        rest="judging and learning",
        unknown=("questions of training prompts",) if None in about else (),
    )


def merged(of: Basis, kind: str, name: str) -> Work:
    """A merge, and what an operator that searches draws and asks."""
    params, row = of.params, of.params.merges[name]
    experts = row.experts or params.skills
    by = f"{params.expert.backbone}, {row.operator}"
    stored = (f"merge, {by}", float(params.expert.rank))
    if "score" not in variants.constants("operators", row.operator).get("NEEDS", ()):
        return Work(by=by, stored=stored)
    options = variants.options("operators", row.operator, row.options, f"merges.{name}.options")
    known = [expert for expert in experts if expert in params.experts]
    work = of.examined(options.get("evaluations", 1), of.prompts.dev(known))
    return dataclasses.replace(work, by=f"{work.by}, {row.operator}", stored=stored)


def model(of: Basis, kind: str, name: str) -> Work:
    """A copy of the weights that a model is drawn from."""
    weights = Path(of.params.models[name].weights)
    stored: tuple[str, float] | None = ("model", 1.0)  # of a backbone: where it lies
    if weights.parent == Path(EXPERTS) and weights.name in of.params.experts:
        settings = training_of(of.params.expert, of.params.experts[weights.name])
        stored = (lora(settings), settings.rank)
    elif weights.parent == Path(MERGES) and weights.name in of.params.merges:
        stored = merged(of, kind, weights.name).stored
    elif weights.parent in (Path(EXPERTS), Path(MIXTURES)):
        stored = None
    return Work(by=stored[0] if stored else "", stored=stored)


def training(of: Basis, kind: str, settings: Training, objective: str) -> Work:
    """So many steps; on disk is a LoRA for each checkpoint, whose size grows with the rank."""
    by = f"{settings.backbone}, {settings.resolution} px, {of.params.runtime.dtype}, {objective}"
    by += ", text encoders" if settings.text_encoder else ""
    by += ", activations again" if settings.gradient_checkpointing else ""
    part = Part(TRAINING, settings.steps, by, settings.batch)
    return Work(
        steps=settings.steps,
        unit="steps",
        number=settings.steps,
        of=part.of,
        by=by,
        parts=(part,),
        stored=(lora(settings), settings.rank * _checkpoints(settings)),
    )


def lora(settings: Training) -> str:
    """What a LoRA's bytes depend on but for its rank."""
    texts = ", text encoders" if settings.text_encoder else ""
    return f"LoRA, {settings.backbone}, {' '.join(settings.targets)}, {settings.save_dtype}{texts}"


def _checkpoints(settings: Training) -> int:
    """How many checkpoints a training leaves: every `checkpoint_every` steps, and after the last."""
    return math.ceil(settings.steps / settings.checkpoint_every)


def _mean(exam: Exam) -> float | None:
    if exam.prompts is None or exam.questions is None:
        return None
    return exam.questions / (exam.prompts or 1)
