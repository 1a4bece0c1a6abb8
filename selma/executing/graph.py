"""DVC's own view of the pipeline: its graph, and what `dvc repro` would run of it when it comes to a stage."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from selma.executing.walk import heights
from selma.ground.errors import UserError
from selma.runtime import finished, work
from selma.runtime.dvcfile import load_stage
from selma.runtime.places import BROUGHT, PULLED


class Pipeline:
    """The stages that `dvc repro TARGETS` would look at, by DVC's name, each with those that it needs.

    Raises UserError for a dvc.yaml or a target that DVC does not take, and outside of a DVC repository.
    """

    def __init__(self, targets: Sequence[str] = ()) -> None:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
        from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

        logging.getLogger("dvc").setLevel(logging.ERROR)
        try:
            self._repo = Repo()
            graph = get_active_graph(self._repo.index.graph)
            chosen = collect_stages(self._repo, targets) if targets else None
            planned = plan_repro(graph, chosen)
        except DvcException as error:
            raise UserError(f"dvc: {error}") from None
        self._stages: dict[str, Any] = {stage.addressing: stage for stage in planned}
        self.needs: dict[str, list[str]] = {
            stage.addressing: [needed.addressing for needed in graph.successors(stage)] for stage in planned
        }

    def check(self) -> None:
        """Raise UserError, before anything is deleted or run, for deps that are not here and that no stage makes."""
        made = [
            Path(out.fs_path) for stage in self._stages.values() if not stage.frozen for out in stage.outs
        ]
        for name, stage in self._stages.items():
            for dep in () if stage.frozen else stage.deps:
                path = Path(dep.fs_path)
                makes = any(path == out or path in out.parents or out in path.parents for out in made)
                if not makes and not dep.exists:
                    raise UserError(f"{name} needs {dep}, which is not here; {PULLED}")

    def height(self) -> dict[str, float]:
        """How many stages each one begins a chain of: those with many should begin first."""
        return heights(self.needs)

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Keep DVC's other commands off every out meanwhile, as a running `dvc repro` does: they name this process.

        Raises UserError where one of them is at work.
        """
        from dvc.lock import LockError
        from dvc.rwlock import rwlock

        repo = self._repo
        outs = [out.fs_path for stage in self._stages.values() for out in stage.outs if not stage.frozen]
        hardlink = repo.config["core"].get("hardlink_lock", False)
        try:
            with rwlock(repo.tmp_dir, repo.fs, " ".join(sys.argv), [], outs, hardlink):
                yield
        except LockError as error:
            raise UserError(f"dvc: {' '.join(str(error).split())}") from None

    def outdated(self, name: str) -> bool | None:
        """Whether something that `dvc repro`, coming to this stage now, looks at is not as dvc.lock says.

        Frozen stages never are. None while another DVC command holds the repository; raises UserError for a dep that is
        not there, and where DVC cannot say.
        """
        stage = self._stages[name]
        if stage.frozen or not stage.cmd:
            return False
        with self._asked(name) as free:
            if free and (missing := next((str(dep) for dep in stage.deps if not dep.exists), None)):
                raise UserError(f"{name} needs {missing}, which is not here; {BROUGHT}")
            return bool(stage.changed()) if free else None

    def prepare(self, name: str) -> bool | None:
        """Make a stage ready that is out of date and begins now; whether its command must run.

        As DVC does then, its outs are deleted, and what its run cache has is brought instead; so is what an earlier
        walk has finished. None while another DVC command holds the repository.
        """
        from dvc.stage.cache import RunCacheNotFoundError

        stage = self._stages[name]
        with self._asked(name) as free:
            if not free:
                return None
            stage.remove_outs(ignore_remove=False, force=False)
            try:
                self._repo.stage_cache.restore(stage)
            except RunCacheNotFoundError:
                return not _taken(name)
            return False

    @contextmanager
    def _asked(self, name: str) -> Iterator[bool]:
        """Hold the repository, if no other DVC command does; what DVC raises is a UserError."""
        from dvc.exceptions import DvcException
        from dvc.lock import LockError

        with ExitStack() as held:
            try:
                held.enter_context(self._repo.lock)
            except LockError:
                yield False
                return
            try:
                yield True
            except DvcException as error:
                raise UserError(f"dvc: {name}: {' '.join(str(error).split())}") from None

    def command(self, name: str) -> str:
        """The command of a stage, templates resolved."""
        return str(self._stages[name].cmd)


def _taken(name: str) -> bool:
    """Put back what an earlier walk has made by this very stage; a stage that lacks a dep says so itself."""
    if not finished.kept(name):
        return False
    with suppress(UserError):
        return finished.take(name, work.stage_key(name), load_stage(Path.cwd(), name).made)
    return False
