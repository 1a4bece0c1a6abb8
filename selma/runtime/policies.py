"""Checks of `policies` and `policy`: models that learn from a judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from selma.ground.errors import UserError
from selma.runtime import variants
from selma.runtime.experts import adapter_of
from selma.runtime.learning import SOLACE
from selma.runtime.origins import allow, allow_all
from selma.runtime.places import BACKBONES, BENCHMARKS, EXPERTS, MERGES, QUESTIONS

if TYPE_CHECKING:
    from selma.runtime.params import Params, PolicyRow


def check_policies(params: Params) -> None:
    """Raise UserError, naming the key, for a policy that could not learn what it should."""
    for section in (params.judges, params.own.judges):
        if SOLACE not in section:
            continue
        key = "judges" if section is params.judges else "own.judges"
        raise UserError(f"{key}.{SOLACE}: a reward without a judge has this name; choose another")
    if params.policy.drawing.scheduler != "ddim":
        raise UserError(
            f"policy.drawing.scheduler is {params.policy.drawing.scheduler}; policies draw by ddim, "
            "whose steps have a density"
        )
    for name, row in params.policies.items():
        key = f"policies.{name}"
        for section in ("experts", "merges"):
            if name in getattr(params, section):
                raise UserError(f"{key}: `{section}` has a row of that name; choose another")
        settings = variants.options("algorithms", row.algorithm, row.options, f"{key}.options")
        if settings.get("gradient") == "sf" and (settings["updates"], settings["passes"]) != (1, 1):
            raise UserError(
                f"{key}.options.gradient is sf, whose second update would not be on the policy that drew; "
                "set updates and passes to 1"
            )
        _check_start(key, name, row, params)
        _check_prompts(key, row, params)
        _check_rewards(key, row, params)
        one = params.policy.prompts * params.policy.group
        if row.images < one:
            raise UserError(
                f"{key}.images is {row.images}; one round draws {one} (policy.prompts times policy.group)"
            )


def _check_start(key: str, name: str, row: PolicyRow, params: Params) -> None:
    if Path(row.start).parent == Path(MERGES):
        raise UserError(
            f"{key}.start is {row.start}; merges may be made of policies, so none starts from one; take an expert"
        )
    others = [other for other in params.policies if other != name]
    made = (f"{EXPERTS}/{other}" for other in (*params.experts, *others))
    allow(f"{key}.start", row.start, [f"{BACKBONES}/{params.expert.backbone}", *made], "made by a stage")
    seen, at = {name}, Path(row.start).name
    while at in params.policies and Path(row.start).parent == Path(EXPERTS):
        if at in seen:
            raise UserError(f"{key}.start is {row.start}, which starts from {name} in turn; begin somewhere")
        seen.add(at)
        row = params.policies[at]
        at = Path(row.start).name
    if adapter_of(params, name).text:
        raise UserError(
            f"{key}.start is an expert that trains the text encoders, too (text_encoder), and policies learn on the "
            "UNet alone; take another one"
        )


def _check_prompts(key: str, row: PolicyRow, params: Params) -> None:
    """The prompts' folder is made by a stage, is no exam's, and has a dev split if it is a benchmark's."""
    benchmarks = {**params.benchmarks, **params.own.benchmarks}
    allowed = [QUESTIONS, *(f"{QUESTIONS}/{skill}" for skill in params.skills)]
    others = [f"{BENCHMARKS}/{name}" for name in benchmarks if name not in params.evaluate.benchmarks]
    if row.prompts in {f"{BENCHMARKS}/{name}" for name in params.evaluate.benchmarks}:
        raise UserError(f"{key}.prompts is {row.prompts}, on which models are examined; take other prompts")
    allow(f"{key}.prompts", row.prompts, [*allowed, *others], "made by a stage")
    if row.prompts in others and not getattr(benchmarks[Path(row.prompts).name], "dev_per_skill", None):
        raise UserError(f"{key}.prompts is {row.prompts}, which has no dev split to learn on")


def _check_rewards(key: str, row: PolicyRow, params: Params) -> None:
    rows = {**params.judges, **params.own.judges}
    judges = {name: variants.constants("judges", judge.kind) for name, judge in rows.items()}
    allow_all(f"{key}.rewards", row.rewards, [*judges, SOLACE], f"in `judges` or `own.judges`, or {SOLACE}")
    allow_all(f"{key}.held_out", row.held_out, judges, "in `judges` or `own.judges`")
    for name, weight in row.rewards.items():
        if weight == 0:
            raise UserError(f"{key}.rewards.{name} is 0; name a judge that only looks on in held_out")
        if name in row.held_out:
            raise UserError(f"{key}.held_out holds {name}, which rewards; leave it out of one of them")
    asked = row.prompts.startswith(QUESTIONS) and params.questions.source == "none"
    for name in (*row.rewards, *row.held_out):
        if asked and name != SOLACE and not judges[name]["SCORES"]:
            raise UserError(
                f"{key}: judge {name} answers questions alone, and questions.source is none, so prompts have none; "
                "set it to llm, or take a judge that scores pictures for prompts"
            )
