"""What `dvc repro` would do: the stages that would run, each with what it makes and takes, and their sums by kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from selma.planning import measured, rates
from selma.planning.amounts import Amounts
from selma.planning.changed import State, running, states
from selma.planning.rates import Clock, Estimate
from selma.planning.work import Work
from selma.runtime.dvcfile import in_order, load_stages
from selma.runtime.params import load_params


@dataclass(frozen=True)
class Line:
    """A stage that would run: why (empty: after others that run), what it makes, bytes of its outs, seconds.

    `size` is None where it is not known, and a bound where `bound`.
    """

    name: str
    why: str
    work: Work
    size: float | None
    bound: bool
    estimate: Estimate

    @property
    def kind(self) -> str:
        """The stage's name in dvc.yaml."""
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class Sum:
    """Several stages together. `timed` of them are in the seconds, `partly` of those with a part left out; `sized` of
    them are in the bytes, which are a bound where `bound`."""

    stages: int
    images: int
    steps: int
    requests: int
    questions: int
    size: float
    sized: int
    bound: bool
    seconds: float
    timed: int
    partly: int


@dataclass(frozen=True)
class Plan:
    """The whole: `lines` in the order in which they would run; `pull` are stages that are as dvc.lock says, but whose
    outs are not here; `known` counts all that are no pretraining."""

    profile: str
    whole: bool
    lines: tuple[Line, ...]
    pull: tuple[str, ...]
    known: int
    between: float  # DVC's own seconds for each stage, which are in the sums
    between_on: str

    def by_kind(self) -> dict[str, Sum]:
        """Sums by kind of stage, in the order in which kinds come first."""
        kinds = dict.fromkeys(line.kind for line in self.lines)
        return {kind: self.sum(line for line in self.lines if line.kind == kind) for kind in kinds}

    def sum(self, lines: Iterable[Line] | None = None) -> Sum:
        """What lines are together; all of them by default."""
        found = list(self.lines if lines is None else lines)
        works, timed = (
            [line.work for line in found],
            [line for line in found if line.estimate.seconds is not None],
        )
        return Sum(
            stages=len(found),
            images=sum(work.images for work in works),
            steps=sum(work.steps for work in works),
            requests=sum(work.requests for work in works),
            questions=sum(work.questions for work in works),
            size=sum(line.size or 0.0 for line in found),
            sized=sum(line.size is not None for line in found),
            bound=any(line.bound for line in found),
            seconds=sum(line.estimate.seconds + self.between for line in timed),
            timed=len(timed),
            partly=sum(bool(line.estimate.without) for line in timed),
        )

    @property
    def machines(self) -> list[str]:
        """Whose rates the hours are of."""
        named = [line.estimate.machine for line in self.lines if line.estimate.machine]
        return list(dict.fromkeys([*named, *([self.between_on] if named and self.between_on else [])]))


def make(root: Path, whole: bool = False) -> Plan:
    """The plan of the pipeline in `root`; of all of its stages with `whole`, as if nothing had ever been made.

    Raises UserError for a params.yaml, a dvc.yaml, a dvc.lock or a table of rates that is none.
    """
    params, stages = load_params(root / "params.yaml"), load_stages(root)
    found = states(root)
    changed = running(found)
    free = [name for name in in_order(stages) if name in found and not found[name].frozen]
    there = {name for name, state in found.items() if name not in changed}
    amounts = Amounts(params, root, there)
    works = {name: amounts.of(stages[name]) for name in free}
    table = rates.read(root / rates.TABLE)
    clock = Clock([measured.machine(root), *table["machines"]])
    sizes = {size["what"]: size["bytes"] for size in table["sizes"]}
    sizes |= rates.sizes_of((works[name], found[name].size) for name in free if name in there)
    runs = [name for name in free if whole or name in changed]
    return Plan(
        profile=params.profile,
        whole=whole,
        lines=tuple(_line(name, works[name], found[name], whole, clock, sizes) for name in runs),
        pull=() if whole else tuple(name for name in found if name not in changed and found[name].missing),
        known=len(free),
        between=clock.between,
        between_on=clock.between_on,
    )


def _line(name: str, work: Work, state: State, whole: bool, clock: Clock, sizes: Mapping[str, float]) -> Line:
    kind = name.partition("@")[0]
    size = sizes[work.stored[0]] * work.stored[1] if work.stored and work.stored[0] in sizes else None
    bound = size is None and work.most is not None
    return Line(
        name=name,
        why="" if whole else state.why,
        work=work,
        size=float(work.most) if bound else size,
        bound=bound,
        estimate=clock.of(kind, work),
    )


def save(root: Path, file: Path, name: str) -> int:
    """Write this machine's rates into a table under the name given, and the sizes of outs that are as params.yaml says;
    returns how many rates there are."""
    params, stages, found = load_params(root / "params.yaml"), load_stages(root), states(root)
    there = set(found) - running(found)
    amounts = Amounts(params, root, there)
    known = [name for name in stages if name in there and not found[name].frozen]
    sizes = rates.sizes_of((amounts.of(stages[name]), found[name].size) for name in known)
    machine = measured.machine(root)
    source = "python -m selma.plan --save, after a run"
    rates.save(file, {**machine, "machine": name, "source": source}, sizes)
    return len(machine["rates"])
