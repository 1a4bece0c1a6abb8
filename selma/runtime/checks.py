"""Checks that involve two keys of params.yaml."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from selma.ground.errors import UserError
from selma.runtime import variants
from selma.runtime.experts import check_merge, check_training
from selma.runtime.kinds import check_kinds
from selma.runtime.loras import check_loras
from selma.runtime.mixtures import check_mixtures
from selma.runtime.origins import (
    EMBEDDED,
    allow,
    allow_all,
    check_backbone,
    check_benchmark,
    check_judge,
    check_own_backbone,
    check_own_benchmark,
    check_own_judge,
    embedded,
)
from selma.runtime.picks import check_picks, folders, lies_in, origin, within
from selma.runtime.places import BACKBONES, DRAWN, EXPERTS, IMAGES, MERGES, MIXTURES, PICKED, RENDERED
from selma.runtime.policies import check_policies

if TYPE_CHECKING:
    from selma.runtime.params import Params


def cross_check(params: Params) -> None:
    """Raise UserError where two keys contradict each other."""
    _check_prompts(params)
    _check_pretraining(params)
    _check_experts(params)
    check_loras(params)
    check_picks(params)
    check_policies(params)
    check_mixtures(params)
    _check_merges(params)
    _check_models(params)
    _check_benchmarks(params)
    _check_dev(params)
    _check_judges(params)
    _check_stage_names(params)
    _check_backbones(params)
    check_kinds(params)


def warn(params: Params, about: str | None = None) -> None:
    """Warn on stderr of what is allowed but hardly intended, of all rows or of the skill or merge `about` alone.

    Every stage reads params.yaml; each warning is for the stage that it is about, so that a run says it once.
    """
    data = {
        folder
        for row in params.experts.values()
        for folder in (
            [f"{IMAGES}/{skill}" for skill in row.skills] if row.skills else [origin(row.data, params)]
        )
    }
    said = {
        skill: f"skills holds {skill}, but no expert trains on its images; `experts` needs a row for it: "
        f"{skill}: {{data: {IMAGES}/{skill}, objective: denoising}}"
        for skill in params.skills
        if not data & {IMAGES, f"{IMAGES}/{skill}"}
    }
    for name, merge in params.merges.items():
        own = [expert for expert in params.experts if expert in params.skills]
        left_out = [expert for expert in own if merge.experts is not None and expert not in merge.experts]
        if left_out:
            said[name] = (
                f"merges.{name} leaves out the skill's expert {', '.join(left_out)}; null merges one for each skill"
            )
    for name, text in said.items():
        if about in (None, name):
            print(f"warning: {text}", file=sys.stderr)


def _check_prompts(params: Params) -> None:
    if params.filter.keep + params.filter.dev > params.prompts.candidates:
        raise UserError(
            f"filter.keep is {params.filter.keep}, filter.dev {params.filter.dev}; "
            f"together they must be at most prompts.candidates ({params.prompts.candidates})"
        )


def _check_pretraining(params: Params) -> None:
    both = params.pretrain_mm
    corpora = {"pretrain_mm.drawn": both.drawn, "pretrain_mm.read": both.read}
    for section, recipe in (("pretrain", params.pretrain), ("pretrain_xl", params.pretrain_xl)):
        corpora |= {f"{section}.corpora.{name}": corpus for name, corpus in recipe.corpora.items()}
    for name, corpus in corpora.items():
        if corpus.images % 2:
            raise UserError(f"{name}.images is {corpus.images}; it must be even: images come in pairs")
    for section, recipe in (("pretrain", params.pretrain), ("pretrain_xl", params.pretrain_xl)):
        for number, run in enumerate(recipe.unet):
            key = f"{section}.unet[{number}].corpora"
            allow_all(key, run.corpora, recipe.corpora, f"in `{section}.corpora`")


def _check_experts(params: Params) -> None:
    for name, expert in params.experts.items():
        if lies_in(expert.data, IMAGES, DRAWN, RENDERED, PICKED):
            allow(f"experts.{name}.data", expert.data, folders(params), "filled by a stage")
        if expert.skills is not None:
            if expert.data != IMAGES:
                raise UserError(
                    f"experts.{name}.skills: its data is {expert.data}; only experts with data {IMAGES} choose skills"
                )
            allow_all(f"experts.{name}.skills", expert.skills, params.skills, "in `skills`")
        if Path("data/samples") in within(expert.data).parents:
            raise UserError(f"experts.{name}.data is {expert.data}, which shows the benchmarks' test prompts")
        check_training(params, name)


def _check_merges(params: Params) -> None:
    for name, merge in params.merges.items():
        if name in params.experts:
            raise UserError(f"merges.{name}: an expert has that name; choose another")
        merged = params.skills if merge.experts is None else merge.experts
        variants.options("operators", merge.operator, merge.options, f"merges.{name}.options", names=merged)
        needs = variants.constants("operators", merge.operator).get("NEEDS", ())
        if needs and (other := [each for each in merged if _is_elsewhere(each, params)]):
            raise UserError(
                f"merges.{name}.operator is {merge.operator}, which looks at the experts' images in {IMAGES}; "
                f"{other[0]} is trained on {params.experts[other[0]].data}"
            )
        if merge.experts is not None:
            made = {**params.experts, **params.policies, **params.own.loras}
            allow_all(
                f"merges.{name}.experts", merge.experts, made, "in `experts`, `policies` or `own.loras`"
            )
            if needs and (drawn := [each for each in merge.experts if each in params.policies]):
                raise UserError(
                    f"merges.{name}.operator is {merge.operator}, which needs the experts' own pictures or "
                    f"prompts; {drawn[0]} is a policy, whose pictures are not kept"
                )
            if needs and (taken := [each for each in merge.experts if each in params.own.loras]):
                raise UserError(
                    f"merges.{name}.operator is {merge.operator}, which needs the experts' own pictures or "
                    f"prompts; {taken[0]} is a LoRA of your own, which has none"
                )
        for skill in params.skills if merge.experts is None else ():
            if skill not in params.experts:
                raise UserError(
                    f"merges.{name}.experts is null (one expert for each skill), but no expert is called {skill}; "
                    f"add it to `experts`, or list the experts to merge"
                )
        check_merge(params, f"merges.{name}", merge.operator, merged)


def _check_models(params: Params) -> None:
    weights = {
        f"{BACKBONES}/{params.expert.backbone}",
        *(f"{MERGES}/{name}" for name in params.merges),
        *(f"{MIXTURES}/{name}" for name in params.mixtures),
        *(f"{EXPERTS}/{name}" for name in (*params.experts, *params.policies, *params.own.loras)),
    }
    for name, model in params.models.items():
        if name in ("item", "skill"):
            raise UserError(f"models.{name}: metrics/items.csv has a column of that name; choose another")
        allow(f"models.{name}.weights", model.weights, weights, "made by a stage")
        variants.options("guidance", model.guidance, model.options, f"models.{name}.options")
    for number, (first, second) in enumerate(params.compare):
        allow_all(f"compare[{number}]", (first, second), params.models, "in `models`")
        if first == second:
            raise UserError(f"compare[{number}] compares {first} with itself")
    if len(set(params.compare)) < len(params.compare):
        twice = next(pair for pair in params.compare if params.compare.count(pair) > 1)
        raise UserError(f"compare names [{', '.join(twice)}] twice")


def _check_benchmarks(params: Params) -> None:
    rows = {**params.benchmarks, **params.own.benchmarks}
    allow_all("evaluate.benchmarks", params.evaluate.benchmarks, rows, "in `benchmarks` or `own.benchmarks`")
    for name, benchmark in params.benchmarks.items():
        check_benchmark(f"benchmarks.{name}", benchmark)
    for name, own in params.own.benchmarks.items():
        _check_new("benchmarks", name, params.benchmarks)
        check_own_benchmark(f"own.benchmarks.{name}", own)
    lead = params.evaluate.benchmarks[0]
    if not variants.constants("benchmarks", rows[lead].source).get("QUESTIONS", True):
        raise UserError(f"evaluate.benchmarks begins with {lead}, which has no questions, so it cannot lead")


def _check_dev(params: Params) -> None:
    """What is chosen by a score needs prompts that no test sees: a leading benchmark's dev split, or held out ones."""
    lead = params.evaluate.benchmarks[0]
    row = params.benchmarks.get(lead) or params.own.benchmarks[lead]
    if getattr(row, "dev_per_skill", None):
        return
    best = params.select.policy == "best"
    for name, expert in params.experts.items():
        if best and lies_in(origin(expert.data, params), DRAWN, RENDERED):
            raise UserError(
                f"select.policy is best, but {lead} has no dev split, and of experts.{name}.data ({expert.data}) no "
                "prompts are held out; set select.policy to last"
            )
    if params.filter.dev:
        return
    made = {name for name, row in params.experts.items() if lies_in(origin(row.data, params), IMAGES)}
    if made and best:
        raise UserError(
            f"select.policy is best, but {lead} has no dev split to choose checkpoints by, and filter.dev is 0; "
            "raise filter.dev, or set select.policy to last"
        )
    for name, merge in params.merges.items():
        scored = "score" in variants.constants("operators", merge.operator).get("NEEDS", ())
        if scored and made & set(merge.experts or params.skills):
            raise UserError(
                f"merges.{name}.operator is {merge.operator}, but {lead} has no dev split to score by, and filter.dev "
                "is 0; raise filter.dev"
            )


def _is_elsewhere(expert: str, params: Params) -> bool:
    """Whether an expert's images are a stage's, and not under data/images: stage merge does not watch them."""
    data = params.experts[expert].data if expert in params.experts else ""
    return lies_in(data, DRAWN, RENDERED, PICKED)


def _check_new(section: str, name: str, others: Mapping[str, object]) -> None:
    if name in others:
        raise UserError(f"own.{section}.{name}: `{section}` has a row of that name; choose another")


def _check_judges(params: Params) -> None:
    for name, source in params.judges.items():
        check_judge(f"judges.{name}", source)
    for name, own in params.own.judges.items():
        _check_new("judges", name, params.judges)
        check_own_judge(f"own.judges.{name}", own)
    rows = {**params.judges, **params.own.judges}
    asked = params.judge
    allow("judge.name", asked.name, rows, "in `judges` or `own.judges`")
    if asked.kind != rows[asked.name].kind:
        section = "judges" if asked.name in params.judges else "own.judges"
        raise UserError(
            f"judge.kind is {asked.kind}, but {section}.{asked.name}.kind is {rows[asked.name].kind}; "
            "they must be the same"
        )
    if not variants.constants("judges", asked.kind)["ANSWERS"]:
        raise UserError(f"judge.name is {asked.name}, which answers no questions; see `preferences`")
    allow_all("preferences", params.preferences, rows, "in `judges` or `own.judges`")
    for name in params.preferences:
        kind = rows[name].kind
        if not variants.constants("judges", kind)["SCORES"]:
            raise UserError(f"preferences holds {name}, which does not score images for their prompts")
        if kind != name:
            raise UserError(
                f"preferences holds {name}, which is of kind {kind}; dvc.yaml finds its file by this name, "
                f"so call it {kind} where it is listed, too"
            )


def _check_stage_names(params: Params) -> None:
    """`a-b` with `c` and `a` with `b-c` would be one stage to DVC, which joins names by dashes."""
    drawn = params.models, params.evaluate.benchmarks
    rated = params.rate.judges
    axes_of = {
        "sample": drawn,
        "prefer": (params.preferences, *drawn),
        "rate": (rated, params.skills),
        "rate_drawn": (rated, params.draws),
    }
    for stage, axes in axes_of.items():
        seen: dict[str, tuple[str, ...]] = {}
        for point in product(*axes):
            first = seen.setdefault(name := "-".join(point), point)
            if first != point:
                raise UserError(
                    f"{' with '.join(first)} and {' with '.join(point)} would make two stages {stage}@{name}; "
                    "rename one of them"
                )


def _check_backbones(params: Params) -> None:
    rows = {**params.backbones, **params.own.backbones}
    for name, backbone in params.backbones.items():
        check_backbone(f"backbones.{name}", backbone)
    for name, own in params.own.backbones.items():
        _check_new("backbones", name, params.backbones)
        check_own_backbone(f"own.backbones.{name}", own)
    for name in embedded([EMBEDDED]):
        if name in rows:
            section = "backbones" if name in params.backbones else "own.backbones"
            raise UserError(f"{section}.{name}: an embedded backbone has this name; choose another")
    for key, name in (
        ("images.backbone", params.images.backbone),
        ("expert.backbone", params.expert.backbone),
    ):
        allow(key, name, {*embedded(params.worlds), *rows}, "in `backbones`, `own.backbones` or `worlds`")
