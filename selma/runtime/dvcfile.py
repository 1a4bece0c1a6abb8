"""dvc.yaml as this repository writes it: its stages with templates resolved from params.yaml.

Reads `foreach` over a list (`${item}`) or a mapping (`${key}`, `${item.x}`), `matrix` over lists and mappings' keys
(`${item.x}`), and `${a.b}` from params.yaml; that is all of DVC's templating that is used here. DVC itself takes
a second to import; of the library, selma/planning/changed.py and selma/executing/graph.py ask it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError, first_line
from selma.runtime.schema import load_yaml

TEMPLATE = re.compile(r"\$\{\s*([^}]+?)\s*\}")


@dataclass(frozen=True)
class Stage:
    """One stage of the DAG. Paths are relative to the repository; `params` are dotted keys of params.yaml."""

    name: str  # as DVC addresses it: `merge`, `images@count`
    desc: str
    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]
    metrics: tuple[str, ...]
    plots: tuple[str, ...]
    uncached: frozenset[str]  # those of outs, metrics and plots that say `cache: false`
    frozen: bool = False  # DVC never runs it

    @property
    def made(self) -> list[Path]:
        """All that it makes: outs, metrics, plots."""
        return [Path(path) for path in (*self.outs, *self.metrics, *self.plots)]


def load_stages(root: Path, params: Any = None) -> dict[str, Stage]:
    """Every stage of root/dvc.yaml by name, in the file's order; raises UserError for a template without a value.

    `params` are plain contents in place of those of root/params.yaml.
    """
    params = load_yaml(root / "params.yaml") if params is None else params
    pipeline = load_yaml(root / "dvc.yaml")
    stages: dict[str, Stage] = {}
    try:
        for name, spec in (pipeline or {}).get("stages", {}).items():
            for stage, body, scope in _expand(name, spec, params):
                stages[stage] = _stage(stage, body, scope)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{root / 'dvc.yaml'}: is not a pipeline as this repository writes it ({first_line(error)}); "
            "`git diff dvc.yaml` shows what changed"
        ) from None
    return stages


def load_stage(root: Path, name: str) -> Stage:
    """The stage of that name; raises UserError if root/dvc.yaml does not have it."""
    stages = load_stages(root)
    if name not in stages:
        raise UserError(f"dvc.yaml: unknown stage {name}; allowed: {', '.join(stages)}")
    return stages[name]


def lacking(stages: Mapping[str, Stage]) -> tuple[str, str] | None:
    """The first stage, and the dep of it, that is not here and that no stage makes; None where all are."""
    made = [out for stage in stages.values() for out in stage.made]
    for name, stage in stages.items():
        for dep in map(Path, stage.deps):
            if not dep.exists() and not any(
                dep == out or out in dep.parents or dep in out.parents for out in made
            ):
                return name, str(dep)
    return None


def needs(stages: Mapping[str, Stage]) -> dict[str, list[str]]:
    """The stages that each stage needs: those that make one of its deps, what a dep lies in, or what lies in it."""
    makers = {
        out: name for name, stage in stages.items() for out in (*stage.outs, *stage.metrics, *stage.plots)
    }
    return {
        name: list(
            dict.fromkeys(
                maker
                for dep in stage.deps
                for out, maker in makers.items()
                if out == dep or out.startswith(f"{dep}/") or dep.startswith(f"{out}/")
            )
        )
        for name, stage in stages.items()
    }


def reached(stages: Mapping[str, Stage], targets: Collection[str]) -> set[str]:
    """The stages that `dvc repro TARGETS` looks at: those of a target's name or group, and all that they need."""
    needed = needs(stages)
    found: set[str] = set()
    left = [name for name in stages if name in targets or name.partition("@")[0] in targets]
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            left += needed[name]
    return found


def in_order(stages: Mapping[str, Stage]) -> list[str]:
    """The stages' names as `dvc repro` takes them: each after those whose outs it reads, depth first."""
    needed = needs(stages)
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in found:
            for other in needed[name]:
                visit(other)
            found.setdefault(name)

    for name in stages:
        visit(name)
    return list(found)


def lookup(params: Mapping[str, Any], key: str) -> Any:
    """The value at a key of params.yaml's plain contents: a.b, or a list's item as a[0] (templates) and a.0 (params).

    Raises UserError if it does not exist.
    """
    value: Any = params
    for part in re.findall(r"[^.\[\]]+", key):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            raise UserError(f"params.yaml: key {key} is missing, though dvc.yaml reads it")
    return value


def _expand(name: str, spec: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(stage name, body, scope of its templates) for each stage of a `foreach` or `matrix`, or for the single stage."""

    def values(over: Any) -> Any:
        if not isinstance(over, str):
            return over
        key = TEMPLATE.fullmatch(over.strip()).group(1)
        found = lookup(params, key)
        if not isinstance(found, list | Mapping):
            raise UserError(f"params.yaml: {key} is {found!r}; it must be a list or a mapping")
        return found

    if "foreach" in spec:
        over = values(spec["foreach"])
        for key in over:
            own = {"key": key, "item": over[key]} if isinstance(over, Mapping) else {"item": key}
            yield f"{name}@{key}", spec["do"], {**params, **own}
    elif "matrix" in spec:
        axes = {axis: values(over) for axis, over in spec["matrix"].items()}
        for point in product(*axes.values()):
            own = {"item": dict(zip(axes, point, strict=True))}
            yield f"{name}@{'-'.join(map(str, point))}", spec, {**params, **own}
    else:
        yield name, spec, params


def _stage(name: str, body: Mapping[str, Any], scope: Mapping[str, Any]) -> Stage:
    def resolve(text: str) -> str:
        return TEMPLATE.sub(lambda match: str(lookup(scope, match.group(1))), text)

    uncached: set[str] = set()

    def paths(section: str) -> tuple[str, ...]:
        found = []
        for entry in body.get(section, []):
            options: Mapping[str, Any] = {}
            if isinstance(entry, Mapping):
                ((entry, options),) = entry.items()
            found.append(resolve(entry))
            if options and options.get("cache") is False:
                uncached.add(found[-1])
        return tuple(found)

    sections = {section: paths(section) for section in ("deps", "params", "outs", "metrics", "plots")}
    return Stage(
        name=name,
        desc=resolve(body.get("desc", "")),
        cmd=resolve(body["cmd"]),
        uncached=frozenset(uncached),
        frozen=bool(body.get("frozen", False)),
        **sections,
    )
