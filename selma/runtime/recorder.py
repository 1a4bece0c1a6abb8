"""Hand what the stages spooled (tracking.py) over to MLflow; the only importer of mlflow.

    python -m selma.runtime.recorder        wait until everything is handed over, and print where it is

One parent run per pipeline execution, with all of params.yaml and the results (`gain`, ...), one child run per stage
that really ran, with the params it declares and what it read. The store is mlflow.db in the repository, with artifacts
in mlartifacts/ next to it, or MLFLOW_TRACKING_URI's.
A spool is removed once MLflow has all of it; after a failure it stays, and the next recorder tries again. A line that
is no event is passed over, and a spool that a working store refuses is set aside as `.refused`: neither blocks others.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selma.ground.errors import first_line
from selma.runtime.events import read
from selma.runtime.places import home
from selma.runtime.tracking import off, redact, spools

EXPERIMENT = "selma"
LINGER = 4.0  # seconds without work before a recorder that a stage started exits
POLL = 0.5
CHUNK = 90  # entries per request, below MLflow's limit of 100 params and tags


def address(root: Path) -> str:
    """The store's: MLFLOW_TRACKING_URI, or the repository's own.

    MLflow and SQLAlchemy read a folder's name each in its own way where it holds what a URL escapes (%, ?, #), so such
    a path is left out: the address is then relative, and holds for a process that runs in `root`.
    """
    own = f"sqlite:///{root}/mlflow.db" if not re.search(r"[%?#]", str(root)) else "sqlite:///mlflow.db"
    return os.environ.get("MLFLOW_TRACKING_URI") or own


class Store:
    """The MLflow store, and its runs that are being written."""

    def __init__(self, root: Path, *, create: bool = True) -> None:
        # Nothing leaves this machine but what goes to the tracking server the user named.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
        from mlflow.tracking import MlflowClient

        self.uri = address(root)
        own = not os.environ.get("MLFLOW_TRACKING_URI")
        self.client = MlflowClient(tracking_uri=self.uri)
        found = self.client.get_experiment_by_name(EXPERIMENT)
        self.experiment = found.experiment_id if found else ""
        if create and not found:
            self.experiment = self._create((root / "mlartifacts").as_uri() if own else None)

    def works(self) -> bool:
        """Whether the store answers at all: then what it refuses is at fault."""
        try:
            return self.client.get_experiment(self.experiment) is not None
        except Exception:
            return False

    def _create(self, artifacts: str | None) -> str:
        return self.client.create_experiment(EXPERIMENT, artifact_location=artifacts)

    def run(self, tag: str, value: str, name: str, start: int, tags: dict[str, str]) -> str:
        """Id of the run whose `tag` is `value`, created if missing: replaying a spool creates no second."""
        if found := self.find(tag, value):
            return found[0].info.run_id
        every = {**tags, tag: _quoted(value), "mlflow.runName": name}
        return self.client.create_run(self.experiment, start_time=start, tags=every).info.run_id

    def find(self, tag: str, value: str) -> list[Any]:
        """The run whose `tag` is `value`, or none."""
        wanted = f"tags.`{tag}` = '{_quoted(value)}'"
        return list(self.client.search_runs([self.experiment], wanted, max_results=1))


def _quoted(value: str) -> str:
    """`value` as it may stand between quotes in a search."""
    return value.replace("'", "_")


class Stage:
    """One spool on its way into MLflow."""

    def __init__(self, path: Path, store: Store) -> None:
        self.path, self.store = path, store
        self.file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115 - read as it grows
        self.parent = self.child = ""
        self.rest = ""

    def advance(self) -> bool:
        """Hand over the lines written since; True once the stage has ended or died and everything is handed over."""
        gone = self._writer_gone()  # checked before reading: what a dead writer wrote is then complete
        *lines, self.rest = (self.rest + self.file.read()).split("\n")
        events = [event for line in lines if (event := read(line))]
        points = [event for event in events if event["event"] == "metric"]
        for event in events:
            if event["event"] == "start":
                self._start(event)
        if not self.child:
            return gone  # its first line is not there yet, or junk
        self._metrics(self.child, [(e["name"], e["value"], e["time"], e["step"]) for e in points])
        for event in events:
            if event["event"] == "metrics":
                values = [(k, v, event["time"], 0) for k, v in event["values"].items()]
                self._metrics(self.child, values)
                self._metrics(self.parent, [(f"{event['file']}/{k}", *rest) for k, *rest in values])
            elif event["event"] == "result":
                self._metrics(self.parent, [(event["name"], event["value"], event["time"], 0)])
            elif event["event"] == "image":
                self.store.client.log_artifact(self.child, str(self.path.parent / event["file"]))
            elif event["event"] == "end":
                self._end(event["status"], event["time"])
                return True
        if gone:
            self._end("KILLED", int(self.path.stat().st_mtime * 1000))
        return gone

    def remove(self) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.path.with_suffix(".files"), ignore_errors=True)

    def _writer_gone(self) -> bool:
        try:
            fcntl.flock(self.file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _start(self, event: dict[str, Any]) -> None:
        store, tags = self.store, event["tags"]
        shared = {key: tags[key] for key in ("git.commit", "git.dirty", "profile", "model") if key in tags}
        self.parent = store.run("dvc.exp", event["run"], event["run"], event["time"], shared)
        store.client.update_run(self.parent, status="RUNNING")
        own = {_name(key): value for key, value in tags.items()} | {"mlflow.parentRunId": self.parent}
        self.child = store.run("dvc.spool", self.path.stem, event["stage"], event["time"], own)
        self._params(self.child, event["params"])
        self._params(self.parent, event.get("settings", {}))
        self._inputs(event.get("inputs", {}))

    def _params(self, run: str, values: dict[str, Any]) -> None:
        """Log params that the run does not have yet: MLflow never changes one."""
        from mlflow.entities import Param

        there = self.store.client.get_run(run).data.params
        params = [
            Param(_name(key), str(value)[:5000]) for key, value in values.items() if _name(key) not in there
        ]
        for start in range(0, len(params), CHUNK):
            self.store.client.log_batch(run, params=params[start : start + CHUNK])

    def _inputs(self, inputs: dict[str, str]) -> None:
        """What earlier stages made and this one reads: data as MLflow's datasets, models as tags; of both, the md5."""
        from mlflow.entities import Dataset, DatasetInput, RunTag

        client = self.store.client
        found = {path: md5 for path, md5 in inputs.items() if path.startswith("data/")}
        sources = {path: json.dumps({"path": path, "md5": md5}) for path, md5 in found.items()}
        datasets = [DatasetInput(Dataset(path, found[path][:36], "dvc", sources[path])) for path in found]
        if datasets:
            client.log_inputs(self.child, datasets)
            client.log_inputs(self.parent, datasets)
        tags = [RunTag(_name(f"md5.{path}"), md5) for path, md5 in inputs.items()]
        for start in range(0, len(tags), CHUNK):
            client.log_batch(self.child, tags=tags[start : start + CHUNK])

    def _metrics(self, run: str, values: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(_name(name), value, when, step) for name, value, when, step in values]
        for start in range(0, len(metrics), CHUNK):
            self.store.client.log_batch(run, metrics=metrics[start : start + CHUNK])

    def _end(self, status: str, when: int) -> None:
        for run in (self.child, self.parent):
            self.store.client.set_terminated(run, status=status, end_time=when)


def _fail(folder: Path, problem: str) -> None:
    """Say what could not be recorded, here and, through the next stage, to whom has a terminal."""
    print(f"warning: MLflow tracking: {redact(problem)}", file=sys.stderr)
    if folder.is_dir():
        (folder / "failed").write_text(redact(problem), encoding="utf-8", errors="replace")


def _name(text: str) -> str:
    """`text` as MLflow takes names: of letters, digits, and _ - . space : / only."""
    return re.sub(r"[^\w\-. :/]", "_", text, flags=re.ASCII)[:250]


def recorded(root: Path, names: Sequence[str]) -> tuple[int, dict[str, float]] | None:
    """When the first of these pipeline executions that MLflow knows began (ms since 1970), and each stage's seconds.

    Of a stage that ran several times in it the last time counts. None where MLflow knows none, or there is no store.
    """
    if not (os.environ.get("MLFLOW_TRACKING_URI") or (root / "mlflow.db").is_file()):
        return None
    store = Store(root, create=False)
    parents = [run for name in names if store.experiment for run in store.find("dvc.exp", name)]
    if not parents:
        return None
    ended = f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}' AND attributes.status = 'FINISHED'"
    children = store.client.search_runs([store.experiment], ended, order_by=["attributes.start_time"])
    took = {run.info.run_name: (run.info.end_time - run.info.start_time) / 1000 for run in children}
    return parents[0].info.start_time, took


def record(root: Path, linger: float) -> Store | None:
    """Hand over every spool under `root`, until none are left and no new one has come for `linger` seconds."""
    folder = spools(root)
    stages: dict[Path, Stage] = {}
    store = None
    idle_since = time.monotonic()
    while True:
        for path in sorted(folder.glob("*.jsonl")):
            store = store or Store(root)
            idle_since = time.monotonic()
            try:
                if path not in stages:
                    stages[path] = Stage(path, store)
                done = stages[path].advance()
            except Exception as error:
                if not store.works():
                    raise
                _fail(folder, f"{path.name} was set aside: {first_line(error)[:300]}")
                if stage := stages.pop(path, None):
                    stage.file.close()
                path.rename(path.with_suffix(".refused"))
                continue
            if done:
                stages.pop(path).remove()
        if not stages and time.monotonic() - idle_since >= linger:
            return store
        time.sleep(POLL)


def main(arguments: list[str]) -> int:
    """Record with the lock held; a failure is left in `failed`, for the next stage to report."""
    linger = "--linger" in arguments
    root = home().resolve()
    folder = spools(root)
    os.chdir(root)  # see `address`
    if linger:
        os.nice(10)  # the stages come first
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "recorder.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if linger else 0))
        except BlockingIOError:
            return 0
        try:
            record(root, LINGER if linger else 0.0)
        except Exception as error:
            _fail(folder, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return 0
        finally:
            if not linger:
                (folder / "failed").unlink(missing_ok=True)  # said already
    if not linger and not off():
        print(f"MLflow: mlflow ui --backend-store-uri {shlex.quote(redact(address(root)))}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("interrupted: what is not handed over waits for the next stage", file=sys.stderr)
        sys.exit(130)
