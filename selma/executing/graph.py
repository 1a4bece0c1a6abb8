"""DVC's own view of the pipeline: its graph, and what `dvc repro` would run of it when it comes to a stage."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from selma.executing.walk import heights
from selma.ground.errors import UserError
from selma.runtime import finished, work
from selma.runtime.dvcfile import load_stage
from selma.runtime.places import BROUGHT


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
        """Whether `dvc repro`, coming to this stage now, would run its command.

        As it does, its outs are deleted then, and what its run cache has is brought instead; so is what an earlier walk
        has finished. Frozen stages never run. None while another DVC command holds the repository; raises UserError for
        a dep that is not there, and where DVC cannot say.
        """
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.stage.cache import RunCacheNotFoundError

        stage = self._stages[name]
        if stage.frozen or not stage.cmd:
            return False
        try:
            with self._repo.lock:
                if missing := next((str(dep) for dep in stage.deps if not dep.exists), None):
                    raise UserError(f"{name} needs {missing}, which is not here; {BROUGHT}")
                if not stage.changed():
                    return False
                stage.remove_outs(ignore_remove=False, force=False)
                try:
                    self._repo.stage_cache.restore(stage)
                except RunCacheNotFoundError:
                    return not _taken(name)
                return False
        except LockError:
            return None
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
