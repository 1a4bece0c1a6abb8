"""Which stages `dvc repro` would run, as DVC itself sees them.

DVC compares dvc.yaml, dvc.lock, params.yaml, the code and what lies here. What it calls changed because it is not here,
though dvc.lock is in step, `dvc pull` brings: that is told apart. Nothing is run, locked, downloaded or written (DVC
keeps the hashes of files it reads in its own cache of them, as `dvc status` does).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.ground.errors import UserError, first_line
from selma.runtime.dvcfile import lookup
from selma.runtime.schema import load_yaml

if TYPE_CHECKING:
    from dvc.dependency import Dependency
    from dvc.dependency.param import ParamsDependency
    from dvc.output import Output
    from dvc.stage import Stage

NEW = "new"  # why a stage runs that dvc.lock does not know


@dataclass(frozen=True)
class State:
    """How a stage stands to dvc.lock.

    `why` says what DVC would run it for (empty: nothing of its own), `after` are the stages whose outs it reads,
    `missing` whether an out of it is not here, `size` the bytes of its outs by dvc.lock, None where it has none.
    """

    frozen: bool
    why: str
    after: tuple[str, ...]
    missing: bool
    size: int | None


def states(root: Path) -> dict[str, State]:
    """Every stage's state by name. Raises UserError where DVC cannot read the pipeline or its lock."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(os.fspath(root)) as repo:
            graph = repo.index.graph
            seen = _Seen(graph, load_yaml(root / "params.yaml"))
            return {stage.addressing: _state(stage, graph.successors(stage), seen) for stage in graph}
    except DvcException as error:
        raise UserError(f"DVC: {first_line(error)}; `dvc status` says more") from None


def running(found: Mapping[str, State]) -> set[str]:
    """The stages that have a reason of their own to run, and all that read their outs: at most these run, as a stage
    that makes the same again stops the wave. Frozen ones never do."""
    runs: set[str] = set()
    known: dict[str, bool] = {}

    def visit(name: str) -> bool:
        if name not in known:
            state = found[name]
            known[name] = False  # the graph has no circles
            above = [visit(other) for other in state.after]
            known[name] = not state.frozen and (bool(state.why) or any(above))
            if known[name]:
                runs.add(name)
        return known[name]

    for name in found:
        visit(name)
    return runs


class _Seen:
    """What is here: each file and folder is hashed once, where DVC hashes it for every stage that it is a dep of."""

    def __init__(self, stages: Iterable[Stage], params: Any) -> None:
        outs = [out for stage in stages for out in stage.outs]
        self.params, self.made = params, {out.fs_path: out for out in outs}
        # An out that git keeps is changed where it is not here; what DVC keeps can be pulled.
        self.absent = {out.fs_path for out in outs if out.use_cache and not out.exists}
        self._hashes: dict[str, Any] = {}

    def is_as_locked(self, file: Output) -> bool:
        """Whether a dep or out is here, and as dvc.lock says."""
        if file.fs_path not in self._hashes:
            self._hashes[file.fs_path] = file.get_hash() if file.exists else None
        return self._hashes[file.fs_path] == file.hash_info


def _state(stage: Stage, after: Iterable[Stage], seen: _Seen) -> State:
    sizes = [out.meta.size for out in stage.outs if out.use_cache]
    return State(
        frozen=stage.frozen,
        why="" if stage.frozen else _why(stage, seen),
        after=tuple(other.addressing for other in after),
        missing=any(out.fs_path in seen.absent for out in stage.outs),
        size=sum(sizes) if sizes and None not in sizes else None,
    )


def _why(stage: Stage, seen: _Seen) -> str:
    """The first thing that DVC would run a stage for; empty where all that is here is as dvc.lock says."""
    from dvc.dependency.param import ParamsDependency

    if not any(out.hash_info for out in stage.outs):
        return NEW
    if stage.changed_stage():
        return "its command"
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            if keys := [key for key in dep.params if _differs(dep, key, seen.params)]:
                return ", ".join(keys)
        elif _is_changed(dep, seen):
            return str(dep)
    outs = (out for out in stage.outs if out.fs_path not in seen.absent)
    return next((str(out) for out in outs if not seen.is_as_locked(out)), "")


def _differs(dep: ParamsDependency, key: str, params: Any) -> bool:
    known = dep.hash_info.value or {}
    try:
        return key not in known or known[key] != lookup(params, key)
    except UserError:  # it is no longer there
        return True


def _is_changed(dep: Dependency, seen: _Seen) -> bool:
    """Whether a dep is not as dvc.lock says; a folder that lacks outs which are not here is as it was."""
    maker = seen.made.get(dep.fs_path)
    if not dep.hash_info or (maker is not None and maker.hash_info != dep.hash_info):
        return True
    return not any(_meet(dep.fs_path, path) for path in seen.absent) and not seen.is_as_locked(dep)


def _meet(one: str, other: str) -> bool:
    """Whether one of two paths is the other, or lies in it."""
    return one == other or one.startswith(other + os.sep) or other.startswith(one + os.sep)
