"""The sets of runs in experiments.yaml, checked before the first of their runs begins."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from selma.ground.errors import UserError
from selma.ground.schema import Seed, build, once, section
from selma.runtime.dvcfile import load_stages
from selma.runtime.experiment import Settings, overrides
from selma.runtime.facts import flatten
from selma.runtime.params import Params, benchmark_of, build_params
from selma.runtime.schema import NAME, NAME_WORDS, Name, load_yaml, overridden

FILE = Path("experiments.yaml")
SCORED = ("evaluate", "report")  # the stages after which metrics/eval.json is of the run


@section
class Set:
    """A set of runs; see experiments.yaml."""

    desc: str
    runs: Annotated[dict[Name, Settings], Field(min_length=1)]
    set: Settings = Field(default_factory=dict)
    seeds: tuple[Seed, ...] = ()
    targets: Annotated[tuple[str, ...], once] = ()
    pool: bool = False

    @property
    def scored(self) -> bool:
        """Whether its runs reach the scores in metrics/."""
        return not self.targets or any(target in SCORED for target in self.targets)


def load_sets(path: Path = FILE) -> dict[str, Set]:
    """The sets in experiments.yaml, `runs` multiplied by `seeds`; raises UserError for one not written as a set."""
    found = load_yaml(path)
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path}: must be a mapping of sets")
    for name in found:
        if not re.fullmatch(NAME, str(name)):
            raise UserError(f"{path}: set {name!r}; it must be {NAME_WORDS}")
    return {
        str(name): _with_seeds(build(Set, value, where=f"{path}, {name}"), f"{path}, {name}")
        for name, value in found.items()
    }


def _with_seeds(found: Set, where: str) -> Set:
    if not found.seeds:
        return found
    if len(set(found.seeds)) < len(found.seeds):
        raise UserError(f"{where}: seeds is {list(found.seeds)}; it must not name one twice")
    for run, own in found.runs.items():
        if "seed" in {**found.set, **own}:
            raise UserError(f"{where}, run {run}: sets seed, and so does seeds; leave one of them out")
    runs = {f"{run}-{seed}": {**own, "seed": seed} for run, own in found.runs.items() for seed in found.seeds}
    return replace(found, runs=runs)


def check_runs(name: str, found: Set, path: Path = FILE) -> Params:
    """The first run's params. A typo in the last run must not cost the time of the first.

    Raises UserError unless DVC can set every run's settings, params.yaml is valid with them, dvc.yaml has the targets
    and, where runs are pooled, all are scored and examine the same models on the same prompts.
    """
    params = load_yaml(Path("params.yaml"))
    if found.pool and not found.scored:
        raise UserError(
            f"{path}, {name}: pool needs scores, but targets ({', '.join(found.targets)}) do not reach evaluate"
        )
    runs: list[Params] = []
    for run, own in found.runs.items():
        where, settings = f"{path}, {name}, run {run}", {**found.set, **own}
        try:
            overrides(settings)
            changed = overridden(params, flatten(settings))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        runs.append(build_params(changed, where=where))
        if found.targets:
            _check_targets(found.targets, load_stages(Path(), changed), where)
        if found.pool and _examined(runs[-1]) != _examined(runs[0]):
            raise UserError(
                f"{where}: pooled runs need the same names in models, pairs in compare and leading benchmark"
            )
    return runs[0]


def _check_targets(targets: Sequence[str], stages: Collection[str], where: str) -> None:
    groups = dict.fromkeys(stage.partition("@")[0] for stage in stages)
    for target in targets:
        if target not in stages and target not in groups:
            group = target.partition("@")[0]
            allowed = [stage for stage in stages if stage.startswith(f"{group}@")] or groups
            raise UserError(f"{where}: targets holds {target}; it must be one of: {', '.join(allowed)}")


def _examined(params: Params) -> tuple[Any, ...]:
    """What a pooled gain needs to be the same in every run."""
    return list(params.models), params.compare, benchmark_of(params, params.evaluate.benchmarks[0])
