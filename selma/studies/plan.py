"""Which runs the rows of the table need, checked before the first of them begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selma.ground.errors import UserError
from selma.runtime import variants
from selma.runtime.experts import check_merge
from selma.runtime.facts import flatten
from selma.runtime.origins import allow, allow_all
from selma.runtime.params import Params, build_params
from selma.runtime.schema import load_yaml, overridden
from selma.runtime.sets import Set, check_runs
from selma.studies.rows import FILE, Row, Table, for_page


@dataclass(frozen=True)
class Run:
    """One run of a set: its name there, its settings, and params.yaml with them."""

    set: str
    name: str
    settings: Mapping[str, object]
    targets: tuple[str, ...]
    params: Params


# Stages that need all experts.
LATER = ("merge", "mixture", "select_mixture", "model", "sample", "answer", "prefer", "evaluate", "report")

Runs = Mapping[tuple[str, int], Run]  # by set and training seed


def plan(table: Table, sets: Mapping[str, Set], rows: Mapping[str, Row], seeds: Sequence[int]) -> Runs:
    """The runs that rows need. A row that cannot be must not cost the time of those before it.

    Raises UserError for a set or a seed's run that experiments.yaml lacks, a benchmark that the runs do not make, and
    experts that a run does not train and choose.
    """
    runs: dict[tuple[str, int], Run] = {}
    for name, row in rows.items():
        where = f"{FILE}, rows.{name}"
        if not of_row(row, seeds):
            raise UserError(
                f"--seeds: {seeds[0]}; row {name} is computed with {', '.join(map(str, row.seeds or ()))}"
            )
        allow(f"{where}.set", row.set, sets, "in experiments.yaml")
        for seed in of_row(row, seeds):
            if (row.set, seed) not in runs:
                check_runs(row.set, sets[row.set])
                runs[row.set, seed] = _run(where, row.set, sets[row.set], seed)
            run = runs[row.set, seed]
            if row.merge is not None:
                experts, key = experts_of(row, run.params), f"{where}.merge.options"
                variants.options("operators", row.merge.operator, row.merge.options, key, names=experts)
            allow(
                f"{FILE}: benchmark", table.benchmark, run.params.benchmarks, f"made by the runs of {row.set}"
            )
            if not getattr(run.params.benchmarks[table.benchmark], "dev_per_skill", None):
                raise UserError(
                    f"{FILE}: benchmark is {table.benchmark}, which has no dev split to choose guidance on"
                )
            made = [expert for expert in run.params.experts if _is_chosen(expert, run.targets)]
            made += [policy for policy in run.params.policies if _is_learned(policy, run.targets)]
            made += [name for name in run.params.mixtures if f"select_mixture@{name}" in run.targets]
            allow_all(
                where, experts_of(row, run.params), made, f"trained and chosen by the runs of {row.set}"
            )
            if row.merge is not None:
                check_merge(run.params, f"{where}.merge", row.merge.operator, experts_of(row, run.params))
    _check_backbones(table, rows, runs)
    leading = {rows[name].set: rank for rank, name in enumerate((table.selma, table.base)) if name in rows}
    # the base's set first, then SELMA's: gains are over them
    return dict(
        sorted(runs.items(), key=lambda each: (seeds.index(each[0][1]), -leading.get(each[0][0], -1)))
    )


def _check_backbones(table: Table, rows: Mapping[str, Row], runs: Runs) -> None:
    """Raise UserError for a row that draws by another backbone than a row that its gain is over."""
    by = {of: run.params.expert.backbone for (of, _), run in runs.items()}
    for name, row in rows.items():
        for other in (for_page(table, row.page).base, row.claim.over if row.claim else name):
            if other in rows and by[rows[other].set] != by[row.set]:
                raise UserError(
                    f"{FILE}, rows.{name}: draws by {by[row.set]}, and {other}, which its gain is over, by "
                    f"{by[rows[other].set]}; put it on a page whose rows draw by one backbone"
                )


def of_row(row: Row, seeds: Sequence[int]) -> list[int]:
    """Those of the seeds that a row is computed with."""
    return [seed for seed in seeds if row.seeds is None or seed in row.seeds]


def experts_of(row: Row, params: Params) -> list[str]:
    """The experts that a row is made of."""
    if row.expert is not None:
        return [row.expert]
    if row.merge is None:
        return []
    return list(row.merge.experts or params.skills)


def _run(where: str, name: str, found: Set, seed: int) -> Run:
    """The one run of a set that trains with a seed."""
    plain, fits = load_yaml(Path("params.yaml")), []
    for run, own in found.runs.items():
        settings = {**found.set, **own}
        params = build_params(overridden(plain, flatten(settings)), where=f"{name}, run {run}")
        if params.seed == seed:
            fits.append(Run(name, run, settings, tuple(found.targets), params))
    if len(fits) != 1:
        raise UserError(f"{where}.set is {name}, which has {len(fits)} runs of seed {seed}; it must have one")
    return fits[0]


def _is_learned(policy: str, targets: Sequence[str]) -> bool:
    """Whether the stages that a run reaches let a policy learn."""
    groups = {
        target.partition("@")[0] for target in targets if "@" not in target or target.startswith("merge@")
    }
    return not targets or f"policy@{policy}" in targets or bool(groups & {"policy", *LATER})


def _is_chosen(expert: str, targets: Sequence[str]) -> bool:
    """Whether the stages that a run reaches make models/experts/<expert>."""
    reached = {
        target.partition("@")[0] for target in targets if "@" not in target or target.startswith("merge@")
    }
    return not targets or f"select@{expert}" in targets or bool(reached & {"select", *LATER})
